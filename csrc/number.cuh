// A slot's number, of a size that is known only at run time: looked at as it stands in memory, understood later.
#pragma once

#include "memory.hpp"
#include "operands.hpp"

namespace moe_cute {

// One load reads either size: of two that are predicated, one is carried out. A pair of loads of half the size, side by
// side, took 400 cycles where one took 50.
//
// Neither is moved, nor merged with another of the same address. Before `griddepcontrol.wait`, what they find is a
// guess, which the kernel before may be overwriting; after, it is true, since the wait acquires what that kernel wrote:
// nothing that the guess left in the L1 cache is found there (6.7 million loads of lines so left, none of them stale).
template <class Narrow, class Wide>
struct Number {
  void const* address = nullptr;
  int bytes = 0;  // of none: reads as zero

  __device__ static Number of_slot(SlotMatrix const& matrix, int64_t token, int slot) {
    return {matrix.of_token(token) + slot * matrix.slot_bytes, matrix.bytes};
  }

  __device__ Wide look() const {
    Wide wide = 0;
    Narrow narrow = 0;
    load_if<8 * sizeof(Wide)>(bytes == sizeof(Wide), static_cast<Wide const*>(address), wide);
    load_if<8 * sizeof(Narrow)>(bytes == sizeof(Narrow), static_cast<Narrow const*>(address), narrow);
    return wide | narrow;
  }
};

// An int32 or an int64.
struct Index : Number<uint32_t, uint64_t> {
  __device__ static Index of_slot(SlotMatrix const& matrix, int64_t token, int slot) {
    return {Number::of_slot(matrix, token, slot)};
  }

  __device__ int64_t value(uint64_t bits) const {
    return bytes == 8 ? static_cast<int64_t>(bits) : static_cast<int32_t>(bits);
  }
};

}  // namespace moe_cute
