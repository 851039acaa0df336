// The topk slots of one token: which row each one reads, with which weight, and whether it takes part at all.
#pragma once

#include "operands.hpp"

namespace moe_cute {

// Read as int64 whatever the storage, by the token's own offset.
CUTE_HOST_DEVICE int64_t index_at(IndexMatrix const& matrix, int64_t token, int slot) {
  int64_t const at = token * matrix.token_stride + slot * matrix.topk_stride;
  return matrix.is_int64 ? static_cast<int64_t const*>(matrix.data)[at] : static_cast<int32_t const*>(matrix.data)[at];
}

// Whether a slot's expert lives here: a negative id, one past the map's end, or one that maps to a negative does not.
CUTE_HOST_DEVICE bool expert_is_local(Fusion const& fusion, int64_t token, int slot) {
  int64_t const expert = index_at(fusion.expert_ids, token, slot);
  if (!fusion.has_expert_map) return expert >= 0;
  return expert >= 0 && expert < fusion.experts && fusion.expert_map[expert * fusion.expert_map_stride] >= 0;
}

// Where the vector of one thread begins: in the first row of its token, in the output, and in shared_output.
template <class C>
struct Place {
  using T = typename Operands<C>::T;
  T const* input;  // for a permuted input, in its row 0
  int64_t output;  // elements
  int64_t token;
  int64_t hidden;
};

template <class C>
CUTE_HOST_DEVICE Place<C> place_of(Operands<C> const& operands, int64_t token, int64_t hidden) {
  bool is_permuted = false;
  if constexpr (C::kEpilogue == Epilogue::kRouted) is_permuted = operands.is_permuted;
  int64_t const column = hidden * (C::kVectorWidth == 1 ? operands.input_hidden_stride : 1);
  return {operands.input + (is_permuted ? 0 : token * operands.input_token_stride) + column,
          token * operands.output_token_stride + hidden * (C::kVectorWidth == 1 ? operands.output_hidden_stride : 1), token,
          hidden};
}

template <class C>
struct Slot {
  int64_t offset;  // of its row, from the place in the input
  bool live;       // whether the row may be read
  Accumulator<Element<C::kDType>> weight;
};

// Where `wanted` is false nothing is looked up.
template <class C>
CUTE_HOST_DEVICE Slot<C> slot_of(Operands<C> const& operands, int64_t token, int slot, bool wanted) {
  using T = Element<C::kDType>;
  // A specialised hidden size means packed rows: their distance is an immediate of the load.
  int64_t const topk_stride = C::kHidden != kAny ? int64_t(C::kHidden) : operands.input_topk_stride;
  Slot<C> result{slot * topk_stride, wanted, 1};
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.expert_ids.data && wanted) result.live = expert_is_local(operands, token, slot);
    if (operands.is_permuted && wanted) {
      int64_t const row = index_at(operands.rows_of_slots, token, slot);
      result.live = result.live && row >= 0 && row < operands.rows;
      result.offset = row * operands.input_token_stride;
    }
  }
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    if (operands.weights.data && wanted) {
      int64_t const at = token * operands.weights.token_stride + slot * operands.weights.topk_stride;
      result.weight = operands.weights.is_float32 ? static_cast<float const*>(operands.weights.data)[at]
                                                  : to_accumulator(static_cast<T const*>(operands.weights.data)[at]);
    }
  }
  return result;
}

}  // namespace moe_cute
