// Which vector each thread of a launch sums.
#pragma once

#include "slots.hpp"

namespace moe_cute {

// Divides by a multiplication, and differs from cutlass::FastDivmod in that a divisor of one is no special case: a
// predicate on a constant would put two loads of constants in a row at the head of every kernel's critical path.
struct Divider {
  uint32_t divisor;
  uint32_t multiplier;  // ceil(2^(31 + shift) / divisor), where 2^shift >= divisor: exact for dividends below 2^30
  uint32_t shift;

  static Divider by(uint32_t divisor) {
    uint32_t shift = 0;
    while ((uint64_t(1) << shift) < divisor) ++shift;
    uint64_t const multiplier = ((uint64_t(1) << (31 + shift)) + divisor - 1) / divisor;
    return {divisor, static_cast<uint32_t>(multiplier), shift};
  }

  __device__ __forceinline__ void operator()(uint32_t dividend, uint32_t& quotient, uint32_t& remainder) const {
    quotient = __umulhi(2 * dividend, multiplier) >> shift;
    remainder = dividend - quotient * divisor;
  }
};

// Of a row. Where vectors may start anywhere, the last ends with the row: what it shares with the one before, both sum.
template <class C>
int64_t vectors_of_row(int64_t hidden) {
  return C::kAlignment == Alignment::kVector ? hidden / C::kVectorWidth
                                             : (hidden + C::kVectorWidth - 1) / C::kVectorWidth;
}

struct Grid {
  Divider vectors_per_row;     // unused where the hidden size is a constant
  int32_t vectors;             // of this launch
  int32_t stride;              // threads of this launch
  int32_t first_token;         // of this launch in the call
  int32_t first_block;         // the thread with which the first block starts
  int32_t to_next_block;       // from there to the next block's
  int32_t tokens;              // of this launch
  int32_t ahead;               // how many tokens farther another will run in this one's place
  int32_t prefetching_blocks;  // the first of this launch
  int32_t last_overlap;        // elements of a row that its last two vectors have in common
};

// Vectors of live tokens, where the call has a count of them on the device: all others are.
template <class C>
__device__ __forceinline__ int32_t live_vectors(Operands<C> const& operands, Grid const& grid, int32_t count) {
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens) {
      int32_t const vectors_per_row = grid.vectors_per_row.divisor;
      int64_t const live = int64_t(count) - grid.first_token;
      return static_cast<int32_t>(min(max(live, int64_t(0)), int64_t(grid.tokens))) * vectors_per_row;
    }
  }
  return grid.vectors;
}

template <class C>
__device__ __forceinline__ Place<C> place_of_vector(Operands<C> const& operands, Grid const& grid, uint32_t index) {
  uint32_t token, vector;
  if constexpr (C::kHidden != kAny) {
    constexpr int kVectorsPerRow = C::kHidden / C::kVectorWidth;
    token = index / kVectorsPerRow;
    vector = index % kVectorsPerRow;
  } else {
    grid.vectors_per_row(index, token, vector);
  }
  if constexpr (C::kAlignment == Alignment::kElement) {
    bool const ends_row = vector + 1 == grid.vectors_per_row.divisor;
    Place<C> place = place_of(operands, token, int64_t(vector) * C::kVectorWidth - (ends_row ? grid.last_overlap : 0));
    place.nears_end = index + 2 >= static_cast<uint32_t>(grid.vectors);
    return place;
  }
  return place_of(operands, token, int64_t(vector) * C::kVectorWidth);
}

// Whether a vector's warp has one before `end`: its lanes go on together.
__device__ __forceinline__ bool has_warp_before(int32_t vector, int32_t end) { return vector / 32 * 32 < end; }

}  // namespace moe_cute
