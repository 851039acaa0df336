// The registers of AVX2, with FMA and F16C.
#pragma once

#include <immintrin.h>

#include "instruction_sets.hpp"
#include "simd_baseline.hpp"

namespace moe_cute {

#define MOE_CUTE_AVX2 __attribute__((MOE_CUTE_TARGET_AVX2)) static inline

// With `streaming`, past the caches, to an address that is a multiple of as many bytes.
MOE_CUTE_AVX2 void write(__m128i const& bits, void* to, bool streaming) {
  if (streaming) {
    _mm_stream_si128(static_cast<__m128i*>(to), bits);
  } else {
    _mm_storeu_si128(static_cast<__m128i*>(to), bits);
  }
}
MOE_CUTE_AVX2 void write(__m256i const& bits, void* to, bool streaming) {
  if (streaming) {
    _mm256_stream_si256(static_cast<__m256i*>(to), bits);
  } else {
    _mm256_storeu_si256(static_cast<__m256i*>(to), bits);
  }
}

template <>
struct Simd<InstructionSet::kAvx2, float> {
  static constexpr int kWidth = 8;
  using Register = __m256;

  MOE_CUTE_AVX2 void broadcast(float value, Register& all) { all = _mm256_set1_ps(value); }

  MOE_CUTE_AVX2 void load(float const* from, Register& loaded) { loaded = _mm256_loadu_ps(from); }
  MOE_CUTE_AVX2 void load(cutlass::bfloat16_t const* from, Register& loaded) {
    __m256i const words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from)));
    loaded = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  }
  MOE_CUTE_AVX2 void load(cutlass::half_t const* from, Register& loaded) {
    loaded = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from)));
  }

  MOE_CUTE_AVX2 void add(Register const& term, Register& sum) { sum = _mm256_add_ps(sum, term); }
  MOE_CUTE_AVX2 void multiply(Register const& factor, Register& product) { product = _mm256_mul_ps(product, factor); }
  MOE_CUTE_AVX2 void multiply_add(Register const& a, Register const& b, Register& sum) {
    sum = _mm256_fmadd_ps(a, b, sum);
  }

  MOE_CUTE_AVX2 void store(Register const& sum, float* to, bool streaming) {
    write(_mm256_castps_si256(sum), to, streaming);
  }
  MOE_CUTE_AVX2 void store(Register const& sum, cutlass::bfloat16_t* to, bool streaming) {
    __m256i rounded;
    round_to_bfloat16(sum, rounded);
    __m256i const words = _mm256_srli_epi32(rounded, 16);
    write(_mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)), to, streaming);
  }
  MOE_CUTE_AVX2 void store(Register const& sum, cutlass::half_t* to, bool streaming) {
    write(_mm256_cvtps_ph(sum, _MM_FROUND_TO_NEAREST_INT), to, streaming);
  }

  MOE_CUTE_AVX2 void load_pairs(cutlass::bfloat16_t const* from, Register& even, Register& odd) {
    __m256i const pairs = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(from));
    even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000))));
  }
  MOE_CUTE_AVX2 void store_pairs(Register const& even, Register const& odd, cutlass::bfloat16_t* to, bool streaming) {
    __m256i low, high;
    round_to_bfloat16(even, low);
    round_to_bfloat16(odd, high);
    write(_mm256_blend_epi16(_mm256_srli_epi32(low, 16), high, 0xaa), to, streaming);
  }
  MOE_CUTE_AVX2 void interleave(Register const& even, Register const& odd, Register& first, Register& second) {
    __m256 const low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    first = _mm256_permute2f128_ps(low, high, 0x20);
    second = _mm256_permute2f128_ps(low, high, 0x31);
  }
  MOE_CUTE_AVX2 void deinterleave(Register const& first, Register const& second, Register& even, Register& odd) {
    __m256 const low = _mm256_permute2f128_ps(first, second, 0x20), high = _mm256_permute2f128_ps(first, second, 0x31);
    even = _mm256_shuffle_ps(low, high, 0x88);
    odd = _mm256_shuffle_ps(low, high, 0xdd);
  }

 private:
  // The upper half of each word is what `sum` rounds to.
  MOE_CUTE_AVX2 void round_to_bfloat16(Register const& sum, __m256i& rounded) {
    __m256i const bits = _mm256_castps_si256(sum);
    __m256i const odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i const number = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 const is_nan = _mm256_cmp_ps(sum, sum, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(number, _mm256_set1_epi32(0x7fff0000), _mm256_castps_si256(is_nan));
  }
};

template <>
struct Simd<InstructionSet::kAvx2, double> {
  static constexpr int kWidth = 4;
  using Register = __m256d;

  MOE_CUTE_AVX2 void broadcast(double value, Register& all) { all = _mm256_set1_pd(value); }
  MOE_CUTE_AVX2 void load(double const* from, Register& loaded) { loaded = _mm256_loadu_pd(from); }
  MOE_CUTE_AVX2 void add(Register const& term, Register& sum) { sum = _mm256_add_pd(sum, term); }
  MOE_CUTE_AVX2 void multiply(Register const& factor, Register& product) { product = _mm256_mul_pd(product, factor); }
  MOE_CUTE_AVX2 void multiply_add(Register const& a, Register const& b, Register& sum) {
    sum = _mm256_fmadd_pd(a, b, sum);
  }
  MOE_CUTE_AVX2 void store(Register const& sum, double* to, bool streaming) {
    write(_mm256_castpd_si256(sum), to, streaming);
  }
};

#undef MOE_CUTE_AVX2

}  // namespace moe_cute
