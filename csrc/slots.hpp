// The topk slots of one token: which row each one reads, with which weight, and whether it takes part at all.
#pragma once

#include <type_traits>

#include <cute/numeric/int.hpp>

#include "input_rows.hpp"
#include "operands.hpp"

namespace moe_cute {

// Whether all of a token's slots are looked up at once, in few wide loads: neighbours, aligned. Where they are not, one
// is looked up after the other.
template <class C, int K>
inline constexpr bool kWideSlots = kPredicatesLoads && C::kTopK == K && K > 1;

template <int K, class C>
CUTE_HOST_DEVICE bool has_wide_slots(Operands<C> const& operands) {
  if constexpr (C::kEpilogue != Epilogue::kPlain && kWideSlots<C, K>) {
    return operands.has_wide_slots;
  } else {
    return true;
  }
}

// K numbers of a token's slots, from slot `first` on.
template <bool kWide, int K, class T>
CUTE_HOST_DEVICE void load_slots(SlotMatrix const& matrix, int64_t token, int first, int topk, T (&values)[K]) {
  char const* const row = matrix.of_token(token);
  if constexpr (kWide) {
    constexpr int kNeighbours = kSlotNeighbours<K, T>;
    using Bits = cute::uint_bit_t<kNeighbours* int(sizeof(T)) * 8>;
    CUTE_UNROLL
    for (int k = 0; k < K; k += kNeighbours) {
      *reinterpret_cast<Bits*>(values + k) = *reinterpret_cast<Bits const*>(row + k * int(sizeof(T)));
    }
  } else {
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) {
      int const slot = first + k < topk ? first + k : topk - 1;  // past the last slot: any that exists
      values[k] = *reinterpret_cast<T const*>(row + slot * matrix.slot_bytes);
    }
  }
}

// Indices of int32 or int64 as `Index`es; one that this cannot hold becomes -1. The int32s are not touched after their
// load: arithmetic here, behind a branch, would wait for them.
template <bool kWide, int K, class Index>
CUTE_HOST_DEVICE void load_indices(SlotMatrix const& matrix, int64_t token, int first, int topk, Index (&values)[K]) {
  if (matrix.bytes == 8) {
    alignas(16) int64_t wide[K];
    load_slots<kWide>(matrix, token, first, topk, wide);
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) values[k] = static_cast<Index>(wide[k]) == wide[k] ? static_cast<Index>(wide[k]) : -1;
  } else if constexpr (sizeof(Index) == 4) {
    load_slots<kWide>(matrix, token, first, topk, values);
  } else {
    alignas(16) int32_t narrow[K];
    load_slots<kWide>(matrix, token, first, topk, narrow);
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
  bool nears_end = false;  // one of the launch's last two vectors; known where C::kShifts
};

template <class C>
CUTE_HOST_DEVICE Place<C> place_of(Operands<C> const& operands, int64_t token, int64_t hidden) {
  if constexpr (kIsPacked<C>) {
    static_assert(C::kEpilogue == Epilogue::kPlain, "no other operand is known to be packed, nor the rows' order");
    return {operands.input + token * (C::kTopK * C::kHidden) + hidden, token * C::kHidden + hidden, token, hidden};
  } else {
    int64_t const column = hidden * (C::kVectorWidth == 1 ? operands.input_hidden_stride : 1);
    return {operands.input + (C::kEpilogue == Epilogue::kPermuted ? 0 : token * operands.input_token_stride) + column,
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
  return kIsPacked<C> ? int64_t(C::kHidden) : operands.input_topk_stride;
}

// Where a row has the vector that the first row has at `input`.
template <class C, class T, class Row>
CUTE_HOST_DEVICE T const* in_row(Operands<C> const& operands, T const* input, Row row) {
  if constexpr (kNarrowRows<C>) {
    uint64_t const bytes = uint64_t(static_cast<uint32_t>(row)) * operands.row_bytes;
    return reinterpret_cast<T const*>(reinterpret_cast<char const*>(input) + bytes);
  } else {
    return input + row * row_stride(operands);
  }
}

// Whether a slot reads the row that it says: -1 says that it takes no part, and a looked-up one may not exist.
template <class C, class Row>
CUTE_HOST_DEVICE bool exists(Operands<C> const& operands, Row row) {
  if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
    using Unsigned = std::make_unsigned_t<Row>;
    return static_cast<Unsigned>(row) < static_cast<Unsigned>(operands.rows);
  } else {
    return row >= 0;
  }
}

// The rows that K slots of a token read, from slot `first` on: counted from the token's first row, or from the input's
// where they are looked up.
template <class C, int K>
struct SlotRows {
  // Each is kept while its row is on its way; half the registers of an int64 let more rows be so.
  using Row = std::conditional_t<C::kEpilogue == Epilogue::kRouted && !kNarrowRows<C>, int64_t, int32_t>;
  alignas(16) Row rows[K];

  CUTE_HOST_DEVICE SlotRows(Operands<C> const& operands, int64_t token, int first, int topk) {
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (looks_up_rows(operands)) {
        load_indices<kWideSlots<C, K>>(operands.rows_of_slots, token, first, topk, rows);
        CUTE_UNROLL
        for (int k = 0; k < K; ++k) rows[k] = is_slot(k, first, topk) ? rows[k] : -1;
        return;
      }
    }
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) rows[k] = is_slot(k, first, topk) ? first + k : -1;
  }

  // Drops the slots whose expert lives elsewhere.
  CUTE_HOST_DEVICE void drop_remote_experts(Operands<C> const& operands, int64_t token, int first, int topk) {
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      if (operands.expert_ids.bytes == 0) return;
      int64_t experts[K];
      load_indices<kWideSlots<C, K>>(operands.expert_ids, token, first, topk, experts);
      CUTE_UNROLL
      for (int k = 0; k < K; ++k) rows[k] = is_local(operands, experts[k]) ? rows[k] : -1;
    }
  }

  CUTE_HOST_DEVICE Row row(int k) const { return rows[k]; }

  // Whether slot k takes part: nothing is read for the others.
  CUTE_HOST_DEVICE bool live(Operands<C> const& operands, int k) const { return exists(operands, rows[k]); }

 private:
  CUTE_HOST_DEVICE static bool is_slot(int k, int first, int topk) {
    return C::kTopK == K || K == 1 || first + k < topk;
  }
};

}  // namespace moe_cute
