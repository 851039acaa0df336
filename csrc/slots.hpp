// The topk slots of one token: which row each one reads, with which weight, and whether it takes part at all.
#pragma once

#include <type_traits>

#include <cute/numeric/int.hpp>

#include "memory.hpp"
#include "operands.hpp"

namespace moe_cute {

// K values of a token's row in a [tokens, topk] matrix, from slot `first` on: in a few wide loads where the slots are
// neighbours and aligned, which `wide` says of the whole matrix.
template <int K, class T>
CUTE_HOST_DEVICE void load_slots(T const* row, int64_t topk_stride, bool wide, int first, int topk, T (&values)[K]) {
#if defined(__CUDA_ARCH__)
  constexpr int kNeighbours = kSlotNeighbours<K, T>;
  if (kNeighbours > 1 && wide) {
    using Bits = cute::uint_bit_t<kNeighbours* int(sizeof(T)) * 8>;
    CUTE_UNROLL
    for (int k = 0; k < K; k += kNeighbours) {
      *reinterpret_cast<Bits*>(values + k) = *reinterpret_cast<Bits const*>(row + first + k);
    }
    return;
  }
#else
  (void)wide;
#endif
  CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    int const slot = first + k < topk ? first + k : topk - 1;  // past the last slot: any that exists
    values[k] = row[slot * topk_stride];
  }
}

// Indices of int32 or int64 as `Index`es; one that this cannot hold becomes -1. The int32s are not touched after their
// load: arithmetic here, behind a branch, would wait for them.
template <int K, class Index>
CUTE_HOST_DEVICE void load_indices(IndexMatrix const& matrix, int64_t token, int first, int topk, Index (&values)[K]) {
  int64_t const row = token * matrix.token_stride;
  if (matrix.is_int64) {
    int64_t wide[K];
    load_slots(static_cast<int64_t const*>(matrix.data) + row, matrix.topk_stride, matrix.wide, first, topk, wide);
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) values[k] = static_cast<Index>(wide[k]) == wide[k] ? static_cast<Index>(wide[k]) : -1;
  } else {
    int32_t narrow[K];
    load_slots(static_cast<int32_t const*>(matrix.data) + row, matrix.topk_stride, matrix.wide, first, topk, narrow);
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) values[k] = narrow[k];
  }
}

// Whether an expert lives here: a negative id, one past the map's end, or one that maps to a negative does not.
CUTE_HOST_DEVICE bool is_local(Fusion const& fusion, int64_t expert) {
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
  if constexpr (kIsPacked<C>) {
    static_assert(C::kEpilogue == Epilogue::kPlain, "no other operand is known to be packed, nor the rows' order");
    return {operands.input + token * (C::kTopK * C::kHidden) + hidden, token * C::kHidden + hidden, token, hidden};
  } else {
    bool is_permuted = false;
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) is_permuted = operands.is_permuted;
    int64_t const column = hidden * (C::kVectorWidth == 1 ? operands.input_hidden_stride : 1);
    return {operands.input + (is_permuted ? 0 : token * operands.input_token_stride) + column,
            token * operands.output_token_stride + hidden * (C::kVectorWidth == 1 ? operands.output_hidden_stride : 1),
            token, hidden};
  }
}

// Elements from the start of shared_output.
template <class C>
CUTE_HOST_DEVICE int64_t offset_in_shared(Operands<C> const& operands, Place<C> const& place) {
  return place.token * operands.shared_token_stride +
         place.hidden * (C::kVectorWidth == 1 ? operands.shared_hidden_stride : 1);
}

// Elements from a row of the input to the next.
template <class C>
CUTE_HOST_DEVICE int64_t row_stride(Operands<C> const& operands) {
  if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
    if (operands.is_permuted) return operands.input_token_stride;
  }
  return kIsPacked<C> ? int64_t(C::kHidden) : operands.input_topk_stride;
}

// A looked-up row, or a negative where the input has none of that number.
template <class C, class Row>
CUTE_HOST_DEVICE Row row_or_none(Operands<C> const& operands, Row row) {
  return row < operands.rows ? row : Row(-1);
}

// The rows that K slots of a token read, from slot `first` on: counted from the token's first row, or from the input's
// where it is permuted. Negative: the slot takes no part, and nothing is read.
template <class C, int K>
struct SlotRows {
  // Each is kept while its row is on its way; half the registers of an int64 let more rows be so.
  using Row = std::conditional_t<C::kEpilogue == Epilogue::kRouted, int64_t, int32_t>;
  Row rows[K];

  SlotRows() = default;

  CUTE_HOST_DEVICE SlotRows(Operands<C> const& operands, int64_t token, int first, int topk) {
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (operands.is_permuted) {
        load_indices(operands.rows_of_slots, token, first, topk, rows);
        CUTE_UNROLL
        for (int k = 0; k < K; ++k) rows[k] = exists(k, first, topk) ? row_or_none(operands, rows[k]) : -1;
        return;
      }
    }
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) rows[k] = exists(k, first, topk) ? first + k : -1;
  }

  // Drops the slots whose expert lives elsewhere.
  CUTE_HOST_DEVICE void drop_remote_experts(Operands<C> const& operands, int64_t token, int first, int topk) {
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      if (operands.expert_ids.data == nullptr) return;
      int64_t experts[K];
      load_indices(operands.expert_ids, token, first, topk, experts);
      CUTE_UNROLL
      for (int k = 0; k < K; ++k) rows[k] = is_local(operands, experts[k]) ? rows[k] : -1;
    }
  }

  CUTE_HOST_DEVICE bool live(int k) const { return rows[k] >= 0; }

  // Elements from the place in the input to the row that slot k reads.
  CUTE_HOST_DEVICE int64_t offset(Operands<C> const& operands, int k) const { return rows[k] * row_stride(operands); }

 private:
  CUTE_HOST_DEVICE static bool exists(int k, int first, int topk) {
    return C::kTopK == K || K == 1 || first + k < topk;
  }
};

// A token's own weights.
template <class C>
CUTE_HOST_DEVICE WeightMatrix weights_of_token(Operands<C> const& operands, int64_t token) {
  WeightMatrix weights;
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    weights = operands.weights;
    int const bytes = slot_bytes(weights, sizeof(Element<C::kDType>));
    if (weights.data) weights.data = static_cast<char const*>(weights.data) + token * weights.token_stride * bytes;
  }
  return weights;
}

// The weights of K slots of a token, from slot `first` on; ones where the call has none.
template <class C, int K>
struct SlotWeights {
  using T = Element<C::kDType>;

  Accumulator<T> values[K];  // unset in a plain kernel

  SlotWeights() = default;

  CUTE_HOST_DEVICE SlotWeights(WeightMatrix const& of_token, int first, int topk) {
    if constexpr (C::kEpilogue != Epilogue::kPlain) look_up(of_token, first, topk);
  }

  // A skipped slot's row is zeros, and -0 x 0 leaves any sum as it is: +0 x 0 would make +0 of -0.
  CUTE_HOST_DEVICE void drop_skipped(SlotRows<C, K> const& slots) {
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) values[k] = slots.live(k) ? values[k] : Accumulator<T>(-0.0);
  }

 private:
  CUTE_HOST_DEVICE void look_up(WeightMatrix const& of_token, int first, int topk) {
    if (of_token.data == nullptr) {
      CUTE_UNROLL
      for (int k = 0; k < K; ++k) values[k] = 1;
    } else if (of_token.is_float32) {
      convert(static_cast<float const*>(of_token.data), of_token, first, topk);
    } else {
      convert(static_cast<T const*>(of_token.data), of_token, first, topk);
    }
  }

  template <class Stored>
  CUTE_HOST_DEVICE void convert(Stored const* row, WeightMatrix const& of_token, int first, int topk) {
    Stored stored[K];
    load_slots(row, of_token.topk_stride, of_token.wide, first, topk, stored);
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) values[k] = to_accumulator(stored[k]);
  }
};

}  // namespace moe_cute
