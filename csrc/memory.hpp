// How one vector travels between global memory and registers: copy operations as CuTe's are, with what this kernel asks
// of caches. CuTe's own come with every architecture's, which doubled the time that a file took to compile.
#pragma once

#include <cstdint>

#include "configuration.hpp"

#include <cute/numeric/int.hpp>
#include <cute/numeric/integral_constant.hpp>

namespace moe_cute {

#if defined(MOE_CUTE_GPU_BODY)
// Of a load or a store of so many elements; 16 bytes are the most that one takes.
template <class T, int kElements>
inline constexpr int kAccessBits = kElements * int(sizeof(T)) < 16 ? kElements * int(sizeof(T)) * 8 : 128;

// A load that the compiler may not put off: left to itself, ptxas has three rows on their way instead of eight, to save
// registers that nobody needs. Never `ld.global.nc`: ptxas takes a non-coherent load for one of constant data and moves
// it above `griddepcontrol.wait`, where it reads what the kernel before has not yet written (seen with nvcc 13.0 for
// sm_90).
template <int kBits_>
struct LoadVector {
  static constexpr int kBits = kBits_;
  using Vector = cute::uint_bit_t<kBits>;

  CUTE_HOST_DEVICE static void copy(Vector const& source, Vector& destination) {
#if defined(__CUDA_ARCH__)
    if constexpr (kBits == 128) {
      auto& halves = destination.hilo_;
      asm volatile("ld.global.v2.b64 {%0, %1}, [%2];" : "=l"(halves.lo), "=l"(halves.hi) : "l"(&source));
    } else if constexpr (kBits == 64) {
      asm volatile("ld.global.b64 %0, [%1];" : "=l"(destination) : "l"(&source));
    } else if constexpr (kBits == 32) {
      asm volatile("ld.global.b32 %0, [%1];" : "=r"(destination) : "l"(&source));
    } else {
      asm volatile("ld.global.b16 %0, [%1];" : "=h"(destination) : "l"(&source));
    }
#else
    destination = source;
#endif
  }
};

// Cache hints on the stores moved no measured time, so there are none.
template <int kBits_>
struct StoreVector {
  using Vector = cute::uint_bit_t<kBits_>;

  CUTE_HOST_DEVICE static void copy(Vector const& source, Vector& destination) { destination = source; }
};

// LoadVector, or `otherwise`, as often as it fits, where `wanted` is zero: a predicate on the load, not a branch around
// it.
template <int kBits>
CUTE_HOST_DEVICE void load_if(uint32_t wanted, cute::uint_bit_t<kBits> const* source,
                              cute::uint_bit_t<kBits>& destination, uint64_t otherwise = 0) {
  if constexpr (kBits == 128) {
    destination = {otherwise, otherwise};
  } else {
    destination = static_cast<cute::uint_bit_t<kBits>>(otherwise);
  }
#if defined(__CUDA_ARCH__)
  if constexpr (kBits == 128) {
    auto& halves = destination.hilo_;
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %3, 0; @p ld.global.v2.b64 {%0, %1}, [%2]; }"
                 : "+l"(halves.lo), "+l"(halves.hi)
                 : "l"(source), "r"(wanted));
  } else if constexpr (kBits == 64) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.b64 %0, [%1]; }"
                 : "+l"(destination)
                 : "l"(source), "r"(wanted));
  } else if constexpr (kBits == 32) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.b32 %0, [%1]; }"
                 : "+r"(destination)
                 : "l"(source), "r"(wanted));
  } else {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.b16 %0, [%1]; }"
                 : "+h"(destination)
                 : "l"(source), "r"(wanted));
  }
#else
  if (wanted) destination = *source;
#endif
}
#endif

// Asks the L2 cache for the line at `address`, without reading it: no value is used, so it is safe before
// `griddepcontrol.wait`. What the kernel before still writes reaches the same L2.
CUTE_HOST_DEVICE void prefetch_line(void const* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
  (void)address;
#endif
}

}  // namespace moe_cute
