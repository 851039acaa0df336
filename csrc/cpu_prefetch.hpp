// How a CPU's core is made to ask for lines before it reads them.
#pragma once

#include <cstdint>

namespace moe_cute::cpu {

// Into the L2 cache. An address where nothing is, is no error.
inline void prefetch_line(uintptr_t address) { __builtin_prefetch(reinterpret_cast<void const*>(address), 0, 2); }

// Makes GCC forget what it knows of an address. It takes a loop of nothing but prefetches for an empty one, too, unless
// their addresses go through this.
template <class Address>
void hide(Address& address) {
  asm volatile("" : "+r"(address));
}

}  // namespace moe_cute::cpu
