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

#include <cstring>

#include "instruction_sets.hpp"
#include "numeric.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
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

// What every processor has: 16 bytes, in the vectors of GCC and Clang.
template <InstructionSet kInstructionSet, class A>
struct Simd {
  static_assert(kInstructionSet == InstructionSet::kBaseline);
  static constexpr int kWidth = 16 / int(sizeof(A));
  typedef A Register __attribute__((vector_size(16)));

  static void broadcast(A value, Register& all) { all = Register{} + value; }

  static void load(A const* from, Register& loaded) { std::memcpy(&loaded, from, sizeof(loaded)); }
  static void load(cutlass::bfloat16_t const* from, Register& loaded) {
    loaded = detail::bfloat16_bits_to_float<Register>(widened(from));
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

#if defined(__x86_64__)

#define MOE_CUTE_AVX2 __attribute__((MOE_CUTE_TARGET_AVX2)) static inline

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
    if (streaming) {
      _mm256_stream_ps(to, sum);
    } else {
      _mm256_storeu_ps(to, sum);
    }
  }
  MOE_CUTE_AVX2 void store(Register const& sum, cutlass::bfloat16_t* to, bool streaming) {
    __m256i rounded;
    round_to_bfloat16(sum, rounded);
    __m256i const words = _mm256_srli_epi32(rounded, 16);
    store_words(_mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)), to, streaming);
  }
  MOE_CUTE_AVX2 void store(Register const& sum, cutlass::half_t* to, bool streaming) {
    store_words(_mm256_cvtps_ph(sum, _MM_FROUND_TO_NEAREST_INT), to, streaming);
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
    __m256i const pairs = _mm256_blend_epi16(_mm256_srli_epi32(low, 16), high, 0xaa);
    if (streaming) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to), pairs);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pairs);
    }
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
  MOE_CUTE_AVX2 void store_words(__m128i const& words, void* to, bool streaming) {
    if (streaming) {
      _mm_stream_si128(static_cast<__m128i*>(to), words);
    } else {
      _mm_storeu_si128(static_cast<__m128i*>(to), words);
    }
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
    if (streaming) {
      _mm256_stream_pd(to, sum);
    } else {
      _mm256_storeu_pd(to, sum);
    }
  }
};

#undef MOE_CUTE_AVX2
#define MOE_CUTE_AVX512 __attribute__((MOE_CUTE_TARGET_AVX512)) static inline

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
    if (streaming) {
      _mm512_stream_ps(to, sum);
    } else {
      _mm512_storeu_ps(to, sum);
    }
  }
  MOE_CUTE_AVX512 void store(Register const& sum, cutlass::bfloat16_t* to, bool streaming) {
    __m512i rounded;
    round_to_bfloat16(sum, rounded);
    store_words(_mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)), to, streaming);
  }
  MOE_CUTE_AVX512 void store(Register const& sum, cutlass::half_t* to, bool streaming) {
    store_words(_mm512_cvtps_ph(sum, _MM_FROUND_TO_NEAREST_INT), to, streaming);
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
    __m512i const pairs = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(low, 16), high);
    if (streaming) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), pairs);
    } else {
      _mm512_storeu_si512(to, pairs);
    }
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
  MOE_CUTE_AVX512 void store_words(__m256i const& words, void* to, bool streaming) {
    if (streaming) {
      _mm256_stream_si256(static_cast<__m256i*>(to), words);
    } else {
      _mm256_storeu_si256(static_cast<__m256i*>(to), words);
    }
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
    if (streaming) {
      _mm512_stream_pd(to, sum);
    } else {
      _mm512_storeu_pd(to, sum);
    }
  }
};

#undef MOE_CUTE_AVX512
#endif

}  // namespace moe_cute
