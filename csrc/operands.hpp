// What the body of one configuration reads and writes: plain kernels carry nothing that serves fusion alone.
#pragma once

#include <type_traits>

#include "arguments.hpp"
#include "numeric.hpp"

namespace moe_cute {

// A specialised hidden size means that all strides are those of packed rows: constants, of which the distance between a
// token's rows is an immediate of the load.
template <class C>
inline constexpr bool kIsPacked = C::kHidden != kAny && C::kTopK != kAny;

// Whether the distance between rows is counted in 32 bits of bytes, and rows in 32 bits: a row's address is then one
// multiplication, where 64 bits take seven instructions. Kernels of single elements take any strides.
#if defined(MOE_CUTE_GPU_BODY)
template <class C>
inline constexpr bool kNarrowRows = C::kEpilogue != Epilogue::kPlain && C::kVectorWidth > 1;
#else
template <class C>
inline constexpr bool kNarrowRows = false;
#endif

// How many neighbouring slots of K one load takes: as many as divide K, of at most 16 bytes.
constexpr int slot_neighbours(int slots, int bytes) {
  return slots % 4 == 0 && 4 * bytes <= 16 ? 4 : slots % 2 == 0 && 2 * bytes <= 16 ? 2 : 1;
}

template <int K, class T>
inline constexpr int kSlotNeighbours = slot_neighbours(K, sizeof(T));

// A [tokens, topk] matrix of numbers as a kernel reads it: distances in bytes, so that an address is one
// multiplication.
struct SlotMatrix {
  char const* data = nullptr;
  int64_t token_bytes = 0;  // from a token to the next
  int64_t slot_bytes = 0;   // from a slot to the next
  int32_t bytes = 0;        // of a number; zero: the call has none

  SlotMatrix() = default;

  template <class Matrix>
  SlotMatrix(Matrix const& matrix, int bytes, int64_t first_token) {
    if (matrix.data == nullptr) return;
    this->bytes = bytes;
    token_bytes = matrix.token_stride * bytes;
    slot_bytes = matrix.topk_stride * bytes;
    data = static_cast<char const*>(matrix.data) + first_token * token_bytes;
  }

  // Whether each token's slots can be read slot_neighbours at a time.
  bool is_wide(int topk) const {
    if (bytes == 0 || topk == 1) return true;
    int const access = slot_neighbours(topk, bytes) * bytes;
    bool const is_aligned = reinterpret_cast<uintptr_t>(data) % access == 0 && token_bytes % access == 0;
    return slot_bytes == bytes && is_aligned;
  }

  CUTE_HOST_DEVICE char const* of_token(int64_t token) const { return data + token * token_bytes; }
};

struct NoFusion {};

struct Fusion {
  SlotMatrix weights;  // of float, or of the input's dtype
  SlotMatrix expert_ids;
  bool has_wide_slots;  // all three matrices
  bool has_expert_map;
  bool is_permuted;    // asked by looks_up_rows
  uint32_t row_bytes;  // from a row of the input to the next, where kNarrowRows
  int32_t const* expert_map;
  int64_t expert_map_stride;
  int64_t experts;
  SlotMatrix rows_of_slots;
  int64_t rows;  // that a slot may read
  void const* shared;
  int64_t shared_token_stride;
  int64_t shared_hidden_stride;
  int32_t const* live_tokens;
  DType output_dtype;
};

template <class C>
struct Operands : std::conditional_t<C::kEpilogue == Epilogue::kPlain, NoFusion, Fusion> {
  using T = Element<C::kDType>;

  T const* input;
  void* output;
  int64_t input_token_stride;   // zero where rows are looked up, of which any token may read any
  int64_t input_topk_stride;    // from a row to the next
  int64_t input_hidden_stride;  // looked at by vector width 1 alone
  int64_t output_token_stride;
  int64_t output_hidden_stride;  // likewise
  Accumulator<T> scale;
  int topk;
  bool streaming_store;
};

// Whether a slot's row is looked up in rows_of_slots; else it is the token's row of that slot.
template <class C>
CUTE_HOST_DEVICE bool looks_up_rows(Operands<C> const& operands) {
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    return operands.is_permuted;
  } else {
    return C::kEpilogue == Epilogue::kPermuted;
  }
}

// The operands of the tokens from `first_token` on, from element `first_hidden` of each row on.
template <class C>
Operands<C> operands_of(SumReduceArguments const& call, int64_t first_token = 0, int64_t first_hidden = 0) {
  using T = Element<C::kDType>;
  Operands<C> operands{};
  int64_t const token_stride = call.is_permuted ? 0 : call.input_token_stride;
  int64_t const row_stride = call.is_permuted ? call.input_token_stride : call.input_topk_stride;
  int64_t const input_offset = first_token * token_stride + first_hidden * call.input_hidden_stride;
  int64_t const output_offset = first_token * call.output_token_stride + first_hidden * call.output_hidden_stride;
  operands.input = static_cast<T const*>(call.input) + input_offset;
  operands.output = static_cast<char*>(call.output) + output_offset * element_bytes(call.output_dtype);
  operands.input_token_stride = token_stride;
  operands.input_topk_stride = row_stride;
  operands.input_hidden_stride = call.input_hidden_stride;
  operands.output_token_stride = call.output_token_stride;
  operands.output_hidden_stride = call.output_hidden_stride;
  operands.scale = static_cast<Accumulator<T>>(call.scale);
  operands.topk = static_cast<int>(call.topk);
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    auto const indices = [&](IndexMatrix const& matrix) {
      return SlotMatrix(matrix, matrix.is_int64 ? 8 : 4, first_token);
    };
    operands.weights = SlotMatrix(call.weights, call.weights.is_float32 ? 4 : int(sizeof(T)), first_token);
    operands.expert_ids = indices(call.expert_ids);
    operands.rows_of_slots = indices(call.rows_of_slots);
    operands.has_wide_slots = operands.weights.is_wide(operands.topk) && operands.expert_ids.is_wide(operands.topk) &&
                              operands.rows_of_slots.is_wide(operands.topk);
    operands.has_expert_map = call.has_expert_map;
    operands.is_permuted = call.is_permuted;
    operands.row_bytes = static_cast<uint32_t>(row_stride * sizeof(T));
    operands.expert_map = call.expert_map;
    operands.expert_map_stride = call.expert_map_stride;
    operands.experts = call.experts;
    operands.rows = call.is_permuted ? call.rows : call.topk;
    operands.shared = call.shared ? static_cast<char const*>(call.shared) + (first_token * call.shared_token_stride +
                                                                             first_hidden * call.shared_hidden_stride) *
                                                                                element_bytes(call.output_dtype)
                                  : nullptr;
    operands.shared_token_stride = call.shared_token_stride;
    operands.shared_hidden_stride = call.shared_hidden_stride;
    operands.live_tokens = call.live_tokens;
    operands.output_dtype = call.output_dtype;
  }
  return operands;
}

}  // namespace moe_cute
