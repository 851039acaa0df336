// What a thread does before `griddepcontrol.wait`, while the kernel before drains: it brings in the lines that it will
// read. No value of them is used, so it is safe even where they are still being written.
#pragma once

#include "number.cuh"
#include "slots.hpp"
#include "warp_lines.cuh"

namespace moe_cute {

__device__ __forceinline__ void prefetch_element(void const* data, int64_t element, int bytes) {
  if (data) prefetch_line(static_cast<char const*>(data) + element * bytes);
}

__device__ __forceinline__ void prefetch_slots_of(SlotMatrix const& matrix, int64_t token) {
  if (matrix.bytes) prefetch_line(matrix.of_token(token));
}

// The lines of the warp's rows and of shared_output. Each lane asks for another: one instruction, where a lane for each
// line would take one for each row. `row_of` answers for a slot of the token whose line this lane stands for; negative:
// none.
template <class C, class RowOf>
__device__ __forceinline__ void prefetch_rows(Operands<C> const& operands, Place<C> const& place, RowOf const& row_of) {
  using Lines = WarpLines<C>;
  auto const input =
      reinterpret_cast<Element<C::kDType> const*>(Lines::of_line(reinterpret_cast<unsigned long long>(place.input)));
  int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
  for (int slot = Lines::slot(); slot < topk; slot += Lines::kSlots) {
    auto const row = row_of(slot);
    if (C::kEpilogue == Epilogue::kPlain || exists(operands, row)) prefetch_line(in_row(operands, input, row));
  }
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    int64_t const at = Lines::of_line(static_cast<long long>(offset_in_shared(operands, place)));
    if (Lines::slot() == 0) prefetch_element(operands.shared, at, element_bytes(operands.output_dtype));
  }
}

// One thread for a token's one line: hundreds of requests for a line on its way queue up in front of the rows'.
template <class C>
__device__ __forceinline__ void prefetch_weights(Operands<C> const& operands, Place<C> const& place) {
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    if (threadIdx.x == 0 || place.hidden == 0) prefetch_slots_of(operands.weights, place.token);
  }
}

// Where rows are looked up, the indices are guesses, which the kernel before may be overwriting.
template <class C>
__device__ __forceinline__ void prefetch_token(Operands<C> const& operands, Place<C> const& place) {
  int64_t const token =
      C::kEpilogue == Epilogue::kPlain ? 0 : WarpLines<C>::of_line(static_cast<long long>(place.token));
  prefetch_rows(operands, place, [&](int slot) -> int64_t {
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (looks_up_rows(operands)) {
        auto const index = Index::of_slot(operands.rows_of_slots, token, slot);
        return index.value(index.look());
      }
    }
    return slot;
  });
  prefetch_weights(operands, place);
}

// All that is looked up of a token's slots.
template <class C>
__device__ __forceinline__ void prefetch_slots(Operands<C> const& operands, int64_t token) {
  prefetch_slots_of(operands.rows_of_slots, token);
  prefetch_slots_of(operands.expert_ids, token);
  prefetch_slots_of(operands.weights, token);
}

}  // namespace moe_cute
