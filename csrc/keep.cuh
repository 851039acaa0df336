// Registers for what is needed after `griddepcontrol.wait`.
#pragma once

#include <cstdint>
#include <cstring>

namespace moe_cute {

// Has a value at hand now: the compiler puts off all that is used only after the wait, and nothing but an instruction
// that takes an address, never carried out, keeps it before.
template <class T>
__device__ __forceinline__ void keep(T& value, bool never) {
  static_assert(sizeof(T) <= 8);
#if defined(__CUDA_ARCH__)
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %1, 0; @p prefetch.global.L2 [%0]; }" : "+l"(bits) : "r"(int(never)));
  memcpy(&value, &bits, sizeof(T));
#else
  (void)value, (void)never;
#endif
}

}  // namespace moe_cute
