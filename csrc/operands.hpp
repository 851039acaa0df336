// What the body of one configuration reads and writes: the plain kernels carry no more than they use.
#pragma once

#include <type_traits>

#include "arguments.hpp"
#include "numeric.hpp"

namespace moe_cute {

// A specialised hidden size means that all strides are those of packed rows: constants, of which the distance between a
// token's rows is an immediate of the load.
template <class C>
inline constexpr bool kIsPacked = C::kHidden != kAny && C::kTopK != kAny;

struct NoFusion {};

struct Fusion {
  WeightMatrix weights;
  IndexMatrix expert_ids;
  bool has_expert_map;
  bool is_permuted;
  int32_t const* expert_map;
  int64_t expert_map_stride;
  int64_t experts;
  IndexMatrix rows_of_slots;
  int64_t rows;
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
  int64_t input_token_stride;
  int64_t input_topk_stride;
  int64_t input_hidden_stride;  // looked at by vector width 1 alone
  int64_t output_token_stride;
  int64_t output_hidden_stride;  // likewise
  Accumulator<T> scale;
  int topk;
  bool streaming_store;
};

constexpr int slot_bytes(IndexMatrix const& matrix, int = 0) { return matrix.is_int64 ? 8 : 4; }
constexpr int slot_bytes(WeightMatrix const& matrix, int input_bytes) { return matrix.is_float32 ? 4 : input_bytes; }

// How many neighbouring slots of K one load takes: as many as divide K, of at most 16 bytes.
constexpr int slot_neighbours(int slots, int bytes) {
  return slots % 4 == 0 && 4 * bytes <= 16 ? 4 : slots % 2 == 0 && 2 * bytes <= 16 ? 2 : 1;
}

template <int K, class T>
inline constexpr int kSlotNeighbours = slot_neighbours(K, sizeof(T));

// Whether every token's slots can be read that way.
template <class Matrix>
bool has_wide_slots(Matrix const& matrix, int slots, int bytes) {
  int const width = slot_neighbours(slots, bytes) * bytes;
  return matrix.topk_stride == 1 && reinterpret_cast<uintptr_t>(matrix.data) % width == 0 &&
         matrix.token_stride * bytes % width == 0;
}

// The operands of the tokens from `first_token` on, from element `first_hidden` of each row on.
template <class C>
Operands<C> operands_of(SumReduceArguments const& call, int64_t first_token = 0, int64_t first_hidden = 0) {
  using T = Element<C::kDType>;
  Operands<C> operands{};
  int64_t const input_offset =
      (call.is_permuted ? 0 : first_token * call.input_token_stride) + first_hidden * call.input_hidden_stride;
  int64_t const output_offset = first_token * call.output_token_stride + first_hidden * call.output_hidden_stride;
  operands.input = static_cast<T const*>(call.input) + input_offset;
  operands.output = static_cast<char*>(call.output) + output_offset * element_bytes(call.output_dtype);
  operands.input_token_stride = call.input_token_stride;
  operands.input_topk_stride = call.input_topk_stride;
  operands.input_hidden_stride = call.input_hidden_stride;
  operands.output_token_stride = call.output_token_stride;
  operands.output_hidden_stride = call.output_hidden_stride;
  operands.scale = static_cast<Accumulator<T>>(call.scale);
  operands.topk = static_cast<int>(call.topk);
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    auto const advance = [first_token](auto matrix) {
      int const bytes = slot_bytes(matrix, sizeof(T));
      if (matrix.data) matrix.data = static_cast<char const*>(matrix.data) + first_token * matrix.token_stride * bytes;
      matrix.wide = C::kTopK != kAny && has_wide_slots(matrix, C::kTopK, bytes);
      return matrix;
    };
    operands.weights = advance(call.weights);
    operands.expert_ids = advance(call.expert_ids);
    operands.rows_of_slots = advance(call.rows_of_slots);
    operands.has_expert_map = call.has_expert_map;
    operands.is_permuted = call.is_permuted;
    operands.expert_map = call.expert_map;
    operands.expert_map_stride = call.expert_map_stride;
    operands.experts = call.experts;
    operands.rows = call.rows;
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
