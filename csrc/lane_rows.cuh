// The rows of a token's slots, of which each lane of a warp looks up one.
#pragma once

#include "lane_slot.cuh"

namespace moe_cute {

// Where experts are looked up, there are two latencies and a load for each slot before a row's address is known: too
// many for each thread to go through. They are one load where each lane has a slot, and a vote says which take part.
template <class C>
inline constexpr bool kAsksLanes =
    C::kEpilogue == Epilogue::kRouted && C::kTopK != kAny && C::kVectorWidth > 1 && C::kTopK <= WarpLines<C>::kSlots;

template <class C>
class LaneRows {
 public:
  // To be made by the whole warp.
  __device__ LaneRows(Operands<C> const& operands, Place<C> const& place) {
    LaneSlot<C> const slot = slot_of_lane(operands, place, made_);
    int32_t const row = slot.row(operands, slot.look());
    taking_part_ = Lines::votes_of_line(__ballot_sync(0xffffffffu, row >= 0));
    bool const looks_up = looks_up_rows(operands);
    CUTE_UNROLL
    for (int k = 0; k < C::kTopK; ++k) rows_[k] = k;
    if (!looks_up) return;
    CUTE_UNROLL
    for (int k = 0; k < C::kTopK; ++k) rows_[k] = Lines::of_slot(row, k);
  }

  // See slot_of_lane.
  __device__ bool made() const { return made_; }

  // As of SlotRows.
  __device__ int32_t row(int k) const { return rows_[k]; }
  __device__ bool live(Operands<C> const&, int k) const { return Lines::vote_of_slot(taking_part_, k) != 0; }

 private:
  using Lines = WarpLines<C>;

  bool made_;
  uint32_t taking_part_;
  int32_t rows_[C::kTopK];
};

}  // namespace moe_cute
