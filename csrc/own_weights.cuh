// The weights of a thread's own token, with no branch between their loads and the rows'.
//
// Each thread looks at all of them, in few wide loads. Where one lane had a slot's weight and handed it on, the eight
// shuffles of each warp held up the rows' loads, which share their way: on an H200, bfloat16 and two elements to a
// thread, weighted [64, 8, 2048] took 1.43 us in place of 1.30, [64, 8, 7168] 3.17 in place of 2.91.
#pragma once

#include "keep.cuh"
#include "slot_weights.hpp"

namespace moe_cute {

template <class C>
class OwnWeights {
 public:
  OwnWeights() = default;

  // The slots must be neighbours: see has_wide_slots.
  __device__ OwnWeights(SlotMatrix const& matrix, int64_t token)
      : address_(matrix.of_token(token)), bytes_(matrix.bytes) {}

  __device__ void keep(bool never) {
    moe_cute::keep(address_, never);
    moe_cute::keep(bytes_, never);
  }

  // Whether they are of the input's dtype, and that is not float.
  __device__ bool are_own() const { return sizeof(T) != 4 && bytes_ == sizeof(T); }

  // As they stand in memory. To be called after the wait alone; `Stored` is T where they are so, else float, of which
  // all are one where the call has none.
  template <class Stored>
  struct Found {
    using Bits = cute::uint_bit_t<8 * sizeof(Stored)>;
    alignas(16) Bits slots[C::kTopK];

    __device__ SlotWeights<C, C::kTopK> understood() const {
      SlotWeights<C, C::kTopK> weights;
      CUTE_UNROLL
      for (int k = 0; k < C::kTopK; ++k) weights.values[k] = to_accumulator(reinterpret_cast<Stored const&>(slots[k]));
      return weights;
    }
  };

  template <class Stored>
  __device__ Found<Stored> look() const {
    constexpr int kNeighbours = kSlotNeighbours<C::kTopK, Stored>;
    constexpr int kLoadBits = kNeighbours * int(sizeof(Stored)) * 8;
    constexpr uint64_t kOnes = 0x3f80'0000'3f80'0000;  // two floats
    using Load = cute::uint_bit_t<kLoadBits>;
    Found<Stored> found;
    CUTE_UNROLL
    for (int k = 0; k < C::kTopK; k += kNeighbours) {
      load_if<kLoadBits>(bytes_ == sizeof(Stored), reinterpret_cast<Load const*>(address_ + k * int(sizeof(Stored))),
                         reinterpret_cast<Load&>(found.slots[k]), kOnes);
    }
    return found;
  }

 private:
  using T = Element<C::kDType>;

  char const* address_ = nullptr;
  int bytes_ = 0;  // of each; of none: all are one
};

}  // namespace moe_cute
