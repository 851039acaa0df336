// The registers of AVX-512 F, BW, DQ and VL.
#pragma once

#include <immintrin.h>

#include "simd_avx2.hpp"

namespace moe_cute {

#define MOE_CUTE_AVX512 __attribute__((MOE_CUTE_TARGET_AVX512)) static inline

// As in simd_avx2.hpp, where those of half a register are.
MOE_CUTE_AVX512 void write(__m512i const& bits, void* to, bool streaming) {
  if (streaming) {
    _mm512_stream_si512(static_cast<__m512i*>(to), bits);
  } else {
    _mm512_storeu_si512(to, bits);
  }
}

template <>
struct Simd<InstructionSet::kAvx512, float> {
  static constexpr int kWidth = 16;
  using Register = __m512;

  MOE_CUTE_AVX512 void broadcast(float value, Register& all) { all = _mm512_set1_ps(value); }

  MOE_CUTE_AVX512 void load(float const* from, Register& loaded) { loaded = _mm512_loadu_ps(from); }
  MOE_CUTE_AVX512 void load(cutlass::bfloat16_t const* from, Register& loaded) {
    __m512i const words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<__m256i const*>(from)));
    loaded = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  }
  MOE_CUTE_AVX512 void load(cutlass::half_t const* from, Register& loaded) {
    loaded = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<__m256i const*>(from)));
  }

  MOE_CUTE_AVX512 void add(Register const& term, Register& sum) { sum = _mm512_add_ps(sum, term); }
  MOE_CUTE_AVX512 void multiply(Register const& factor, Register& product) { product = _mm512_mul_ps(product, factor); }
  MOE_CUTE_AVX512 void multiply_add(Register const& a, Register const& b, Register& sum) {
    sum = _mm512_fmadd_ps(a, b, sum);
  }

  MOE_CUTE_AVX512 void store(Register const& sum, float* to, bool streaming) {
    write(_mm512_castps_si512(sum), to, streaming);
  }
  MOE_CUTE_AVX512 void store(Register const& sum, cutlass::bfloat16_t* to, bool streaming) {
    __m512i rounded;
    round_to_bfloat16(sum, rounded);
    write(_mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)), to, streaming);
  }
  MOE_CUTE_AVX512 void store(Register const& sum, cutlass::half_t* to, bool streaming) {
    write(_mm512_cvtps_ph(sum, _MM_FROUND_TO_NEAREST_INT), to, streaming);
  }

  MOE_CUTE_AVX512 void load_pairs(cutlass::bfloat16_t const* from, Register& even, Register& odd) {
    __m512i const pairs = _mm512_loadu_si512(from);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000))));
  }
  MOE_CUTE_AVX512 void store_pairs(Register const& even, Register const& odd, cutlass::bfloat16_t* to, bool streaming) {
    __m512i low, high;
    round_to_bfloat16(even, low);
    round_to_bfloat16(odd, high);
    write(_mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(low, 16), high), to, streaming);
  }
  MOE_CUTE_AVX512 void interleave(Register const& even, Register const& odd, Register& first, Register& second) {
    __m512i const low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    first = _mm512_permutex2var_ps(even, low, odd);
    second = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd);
  }
  MOE_CUTE_AVX512 void deinterleave(Register const& first, Register const& second, Register& even, Register& odd) {
    __m512i const evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even = _mm512_permutex2var_ps(first, evens, second);
    odd = _mm512_permutex2var_ps(first, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), second);
  }

 private:
  // The upper half of each word is what `sum` rounds to.
  MOE_CUTE_AVX512 void round_to_bfloat16(Register const& sum, __m512i& rounded) {
    __m512i const bits = _mm512_castps_si512(sum);
    __m512i const odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i const number = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_mov_epi32(number, _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fff0000));
  }
};

template <>
struct Simd<InstructionSet::kAvx512, double> {
  static constexpr int kWidth = 8;
  using Register = __m512d;

  MOE_CUTE_AVX512 void broadcast(double value, Register& all) { all = _mm512_set1_pd(value); }
  MOE_CUTE_AVX512 void load(double const* from, Register& loaded) { loaded = _mm512_loadu_pd(from); }
  MOE_CUTE_AVX512 void add(Register const& term, Register& sum) { sum = _mm512_add_pd(sum, term); }
  MOE_CUTE_AVX512 void multiply(Register const& factor, Register& product) { product = _mm512_mul_pd(product, factor); }
  MOE_CUTE_AVX512 void multiply_add(Register const& a, Register const& b, Register& sum) {
    sum = _mm512_fmadd_pd(a, b, sum);
  }
  MOE_CUTE_AVX512 void store(Register const& sum, double* to, bool streaming) {
    write(_mm512_castpd_si512(sum), to, streaming);
  }
};

#undef MOE_CUTE_AVX512

}  // namespace moe_cute
