// The registers that every processor has: 16 bytes, in the vectors of GCC and Clang.
#pragma once

#include <cstring>

#include "numeric.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moe_cute {

template <InstructionSet kInstructionSet, class A>
struct Simd {
  static_assert(kInstructionSet == InstructionSet::kBaseline);
  static constexpr int kWidth = 16 / int(sizeof(A));
  typedef A Register __attribute__((vector_size(16)));

  static void broadcast(A value, Register& all) { all = value - Register{}; }  // a zero added to -0 would make it +0

  static void load(A const* from, Register& loaded) { std::memcpy(&loaded, from, sizeof(loaded)); }
  static void load(cutlass::bfloat16_t const* from, Register& loaded) {
    loaded = detail::bit_cast<Register>(widened(from) << 16);
  }
  static void load(cutlass::half_t const* from, Register& loaded) {
    loaded = detail::half_bits_to_float<Register>(widened(from));
  }

  static void add(Register const& term, Register& sum) { sum += term; }
  static void multiply(Register const& factor, Register& product) { product *= factor; }
  static void multiply_add(Register const& a, Register const& b, Register& sum) {
    for (int lane = 0; lane < kWidth; ++lane) sum[lane] = fma_rn(a[lane], b[lane], sum[lane]);
  }

  static void store(Register const& sum, A* to, bool streaming) { store_bytes(sum, to, streaming); }
  static void store(Register const& sum, cutlass::bfloat16_t* to, bool streaming) {
    store_bytes(__builtin_convertvector(detail::float_to_bfloat16_bits<Words>(sum), Halves), to, streaming);
  }
  static void store(Register const& sum, cutlass::half_t* to, bool streaming) {
    store_bytes(__builtin_convertvector(detail::float_to_half_bits<Words>(sum), Halves), to, streaming);
  }

  static void load_pairs(cutlass::bfloat16_t const* from, Register& even, Register& odd) {
    Words pairs;
    std::memcpy(&pairs, from, sizeof(pairs));
    even = detail::bit_cast<Register>(pairs << 16);
    odd = detail::bit_cast<Register>(pairs & 0xffff0000u);
  }
  static void store_pairs(Register const& even, Register const& odd, cutlass::bfloat16_t* to, bool streaming) {
    Words const low = detail::float_to_bfloat16_bits<Words>(even), high = detail::float_to_bfloat16_bits<Words>(odd);
    store_bytes(low | high << 16, to, streaming);
  }
  static void interleave(Register const& even, Register const& odd, Register& first, Register& second) {
    first = Register{even[0], odd[0], even[1], odd[1]};
    second = Register{even[2], odd[2], even[3], odd[3]};
  }
  static void deinterleave(Register const& first, Register const& second, Register& even, Register& odd) {
    even = Register{first[0], first[2], second[0], second[2]};
    odd = Register{first[1], first[3], second[1], second[3]};
  }

 private:
  typedef uint32_t Words __attribute__((vector_size(16)));
  typedef uint16_t Halves __attribute__((vector_size(8)));

  static Words widened(void const* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof(halves));
    return __builtin_convertvector(halves, Words);
  }

  template <class Bytes>
  static void store_bytes(Bytes const& bytes, void* to, bool streaming) {
#if defined(__x86_64__)
    if (streaming) {
      long long pieces[sizeof(Bytes) / 8];
      std::memcpy(pieces, &bytes, sizeof(bytes));
      for (size_t piece = 0; piece < sizeof(Bytes) / 8; ++piece) {
        _mm_stream_si64(static_cast<long long*>(to) + piece, pieces[piece]);
      }
      return;
    }
#endif
    std::memcpy(to, &bytes, sizeof(bytes));
  }
};

}  // namespace moe_cute
