// What a thread does before `griddepcontrol.wait`, while the kernel before drains: it brings in the lines that it will
// read. No value of them is used, so it is safe even where they are still being written.
#pragma once

#include "guess.hpp"

namespace moe_cute {

__device__ __forceinline__ void prefetch_element(void const* data, int64_t element, int bytes) {
  if (data) prefetch_line(static_cast<char const*>(data) + element * bytes);
}

template <class C, class Matrix>
__device__ __forceinline__ void prefetch_slots_of(Matrix const& matrix, int64_t token) {
  prefetch_element(matrix.data, token * matrix.token_stride, slot_bytes(matrix, sizeof(Element<C::kDType>)));
}

// Each lane asks for another of the warp's lines: one instruction, where a lane for each line would take one for each
// row. Where rows are looked up, the indices are guesses, which the kernel before may be overwriting.
template <class C>
__device__ __forceinline__ Guess<C> prefetch_token(Operands<C> const& operands, Place<C> const& place) {
  using Lines = WarpLines<C>;
  auto const input =
      reinterpret_cast<Element<C::kDType> const*>(Lines::of_line(reinterpret_cast<unsigned long long>(place.input)));
  int64_t const token = C::kEpilogue == Epilogue::kPlain ? 0 : Lines::of_line(static_cast<long long>(place.token));
  int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;

  bool is_permuted = false;
  if constexpr (C::kEpilogue >= Epilogue::kPermuted) is_permuted = operands.is_permuted;

  int64_t row = -1;
  for (int slot = Lines::slot(); slot < topk; slot += Lines::kSlots) {
    if constexpr (C::kEpilogue >= Epilogue::kPermuted)
      row = is_permuted ? look_up_row(operands, token, slot) : slot;
    else
      row = slot;
    int64_t const stride = kIsPacked<C> ? int64_t(C::kHidden) : operands.input_topk_stride;
    bool exists = true;
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) exists = !is_permuted || (row >= 0 && row < operands.rows);
    if (exists) prefetch_line(input + row * (is_permuted ? operands.input_token_stride : stride));
  }

  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    int64_t const hidden = Lines::of_line(static_cast<long long>(place.hidden));
    if (Lines::slot() == 0) {
      prefetch_element(operands.shared, token * operands.shared_token_stride + hidden,
                       element_bytes(operands.output_dtype));
    }
    // One thread for a token's one line: hundreds of requests for a line on its way queue up in front of the rows'.
    if (threadIdx.x == 0 || place.hidden == 0) {
      prefetch_slots_of<C>(operands.weights, place.token);
    }
  }

  Guess<C> guess;
  if constexpr (kMayGuess<C>) {
    guess.token = token;
    guess.found = row;
    // In a warp of two tokens, a line may hold the end of one and the start of the next.
    guess.made = is_permuted && __all_sync(0xffffffffu, place.token == Lines::of_slot(token, 0));
    bool const exists = row >= 0 && row < operands.rows;
    CUTE_UNROLL
    for (int k = 0; k < C::kTopK; ++k) {
      guess.rows.rows[k] = Lines::of_slot(exists ? static_cast<int32_t>(row) : -1, k);
    }
  }
  return guess;
}

// The row of a looked-up slot is two latencies away from a thread's start. So each block asks for its token's slots,
// and for those of the token that will follow in its place.
template <class C>
__device__ __forceinline__ void prefetch_slots(Operands<C> const& operands, int64_t token) {
  if (threadIdx.x != 0) return;
  prefetch_slots_of<C>(operands.rows_of_slots, token);
  prefetch_slots_of<C>(operands.expert_ids, token);
  prefetch_slots_of<C>(operands.weights, token);
}

}  // namespace moe_cute
