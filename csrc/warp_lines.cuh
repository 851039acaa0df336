// A warp's vectors as lines of the L2 cache: each lane stands for one line in the row of one slot.
#pragma once

#include "configuration.hpp"
#include "numeric.hpp"

namespace moe_cute {

template <class C>
struct WarpLines {
  static constexpr int kLineBytes = 128;
  static constexpr int kWarpBytes = 32 * C::kVectorWidth * int(sizeof(Element<C::kDType>));
  static constexpr int kLines = kWarpBytes <= kLineBytes ? 1 : kWarpBytes / kLineBytes;
  static constexpr int kSlots = 32 / kLines;  // at once; also the lanes that read one line

  __device__ static int slot() { return lane() / kLines; }

  // What the first lane that reads this lane's line has.
  template <class Value>
  __device__ static Value of_line(Value value) {
    return __shfl_sync(0xffffffffu, value, line() * kSlots);
  }
  // What the lane has that stands for the line that this lane reads, in that slot's row.
  template <class Value>
  __device__ static Value of_slot(Value value, int slot) {
    return __shfl_sync(0xffffffffu, value, lane() / kSlots + slot * kLines);
  }
  // Likewise of a yes or no, which every lane has from a vote.
  __device__ static uint32_t votes_of_line(uint32_t votes) { return votes >> (lane() / kSlots); }
  __device__ static uint32_t vote_of_slot(uint32_t votes_of_line, int slot) {
    return votes_of_line & 1u << slot * kLines;
  }

 private:
  __device__ static int line() { return lane() % kLines; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
};

}  // namespace moe_cute
