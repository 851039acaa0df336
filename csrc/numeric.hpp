// Conversions between storage and accumulator, the same bits on the host and on the device.
//
// The host side is branch-free code, so that a compiler vectorises it, and does not depend on the processor's
// flush-to-zero state where it reads subnormals.
#pragma once

#include <cstdint>
#include <cstring>

#include <cute/config.hpp>
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "configuration.hpp"

namespace moe_cute {

template <DType kDType> struct ElementOf;
template <> struct ElementOf<DType::kFloat16> { using type = cutlass::half_t; };
template <> struct ElementOf<DType::kBFloat16> { using type = cutlass::bfloat16_t; };
template <> struct ElementOf<DType::kFloat32> { using type = float; };
template <> struct ElementOf<DType::kFloat64> { using type = double; };

template <DType kDType> using Element = typename ElementOf<kDType>::type;
template <class T> struct AccumulatorOf { using type = float; };
template <> struct AccumulatorOf<double> { using type = double; };
template <class T> using Accumulator = typename AccumulatorOf<T>::type;

namespace detail {

template <class To, class From>
CUTE_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Arithmetic, not a choice between three cases: float16 [256, 8, 2048] with AVX2 took 977 us in place of 1500 (two
// cores). No operand and no result is a float's subnormal.
inline float half_bits_to_float(uint16_t half) {
  uint32_t const sign = uint32_t(half & 0x8000u) << 16;
  // Times 2^112, so that a half's largest exponent becomes a float's: infinity and NaN by themselves.
  float const normal = bit_cast<float>((uint32_t(half & 0x7fffu) << 13) + (224u << 23));
  // A half's subnormal has no implicit one, and a fraction of twice the weight. For any other half this is no less than
  // `normal`.
  float const subnormal = (normal - 0x1p98f) + normal;
  float const magnitude = (subnormal < normal ? subnormal : normal) * 0x1p-112f;
  return bit_cast<float>(sign | bit_cast<uint32_t>(magnitude));
}

inline uint16_t float_to_half_bits(float value) {
  uint32_t const bits = bit_cast<uint32_t>(value);
  uint32_t const magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the addition of 0.5 lines the fraction up with a half's subnormal, and rounds it to nearest even.
  uint32_t const subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t const normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t const special = magnitude > 0x7f800000u ? 0x7fffu : 0x7c00u;
  uint32_t const rounded = magnitude >= 0x477ff000u ? special : magnitude < 0x38800000u ? subnormal : normal;
  return uint16_t((bits >> 16 & 0x8000u) | rounded);
}

inline uint16_t float_to_bfloat16_bits(float value) {
  uint32_t const bits = bit_cast<uint32_t>(value);
  uint32_t const rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded);
}

}  // namespace detail

CUTE_HOST_DEVICE float to_accumulator(float value) { return value; }
CUTE_HOST_DEVICE double to_accumulator(double value) { return value; }

CUTE_HOST_DEVICE float to_accumulator(cutlass::bfloat16_t value) {
  return detail::bit_cast<float>(uint32_t(value.storage) << 16);
}

CUTE_HOST_DEVICE float to_accumulator(cutlass::half_t value) {
#if defined(__CUDA_ARCH__)
  return __half2float(value.to_half());
#else
  return detail::half_bits_to_float(value.storage);
#endif
}

CUTE_HOST_DEVICE float fma_rn(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

CUTE_HOST_DEVICE double fma_rn(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// One rounding, to nearest even.
template <class T> CUTE_HOST_DEVICE T from_accumulator(Accumulator<T> value) { return value; }

template <> CUTE_HOST_DEVICE cutlass::bfloat16_t from_accumulator<cutlass::bfloat16_t>(float value) {
#if defined(__CUDA_ARCH__)
  return cutlass::bfloat16_t::bitcast(__bfloat16_as_ushort(__float2bfloat16_rn(value)));
#else
  return cutlass::bfloat16_t::bitcast(detail::float_to_bfloat16_bits(value));
#endif
}

template <> CUTE_HOST_DEVICE cutlass::half_t from_accumulator<cutlass::half_t>(float value) {
#if defined(__CUDA_ARCH__)
  return cutlass::half_t::bitcast(__half_as_ushort(__float2half_rn(value)));
#else
  return cutlass::half_t::bitcast(detail::float_to_half_bits(value));
#endif
}

#if defined(__CUDA_ARCH__)
// Two neighbours at once, as one word: single halves are packed with shifts and masks.
template <class T> __device__ uint32_t from_accumulators(float low, float high);

template <> __device__ inline uint32_t from_accumulators<cutlass::bfloat16_t>(float low, float high) {
  return detail::bit_cast<uint32_t>(__floats2bfloat162_rn(low, high));
}

template <> __device__ inline uint32_t from_accumulators<cutlass::half_t>(float low, float high) {
  return detail::bit_cast<uint32_t>(__floats2half2_rn(low, high));
}

// One of two neighbours in a word, the other way: a half that is taken out of its word first has a register to itself.
template <class T> __device__ float one_of_pair(uint32_t pair, int which);

template <> __device__ inline float one_of_pair<cutlass::bfloat16_t>(uint32_t pair, int which) {
  return __uint_as_float(which ? pair & 0xffff0000u : pair << 16);
}

template <> __device__ inline float one_of_pair<cutlass::half_t>(uint32_t pair, int which) {
  float value;
  if (which) {
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high; }" : "=f"(value) : "r"(pair));
  } else {
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(value) : "r"(pair));
  }
  return value;
}
#endif

}  // namespace moe_cute
