// A SIMD register of accumulators on each instruction set: loads that widen, the arithmetic of a sum, stores that
// round.
//
// Written out: of the same as loops, GCC 12 makes code that takes bfloat16 [64, 8, 2048] 62 us in place of 54 on one
// core of an AMD EPYC with AVX-512, with AVX2 107 in place of 72, and float16, whose conversions it does not know, 193
// and 302 in place of 43 and 52.
//
// Registers go by reference: a function that is not compiled for them has no way to hand one over. All of it is inlined
// into one that is (instruction_set_body.hpp).
#pragma once

#include "simd_baseline.hpp"
#if defined(__x86_64__)
#include "simd_avx2.hpp"
#include "simd_avx512.hpp"
#endif

namespace moe_cute {

// One accumulator: for what no register covers.
template <class A>
struct Lane {
  static constexpr int kWidth = 1;
  using Register = A;

  static void broadcast(A value, Register& all) { all = value; }
  template <class T>
  static void load(T const* from, Register& loaded) {
    loaded = to_accumulator(*from);
  }
  static void add(Register const& term, Register& sum) { sum += term; }
  static void multiply(Register const& factor, Register& product) { product *= factor; }
  // sum = a b + sum, rounded once.
  static void multiply_add(Register const& a, Register const& b, Register& sum) { sum = fma_rn(a, b, sum); }
  // With `streaming`, past the caches.
  template <class T>
  static void store(Register const& sum, T* to, bool) {
    *to = from_accumulator<T>(sum);
  }
};

}  // namespace moe_cute
