// Conversions between storage and accumulator, the same bits on the host and on the device.
//
// The host side is free of branches, so that it serves whole vectors, and does not depend on the processor's
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

// Of one number, or of as many as a vector of the compiler's has lanes (simd.hpp): so it is arithmetic, not a branch
// for each of three cases. No operand and no result is a float's subnormal.
template <class Float, class Bits>
Float half_bits_to_float(Bits half) {
  Bits const sign = (half & 0x8000u) << 16;
  // Times 2^112, so that a half's largest exponent becomes a float's: infinity and NaN by themselves.
  Float const normal = bit_cast<Float>(((half & 0x7fffu) << 13) + (224u << 23));
  // A half's subnormal has no implicit one, and a fraction of twice the weight. For any other half this is no less than
  // `normal`.
  Float const subnormal = (normal - 0x1p98f) + normal;
  Float const magnitude = (subnormal < normal ? subnormal : normal) * 0x1p-112f;
  return bit_cast<Float>(sign | bit_cast<Bits>(magnitude));
}

template <class Bits, class Float>
Bits float_to_half_bits(Float value) {
  Bits const bits = bit_cast<Bits>(value);
  Bits const magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the addition of 0.5 lines the fraction up with a half's subnormal, and rounds it to nearest even.
  Bits const subnormal = bit_cast<Bits>(bit_cast<Float>(magnitude) + 0.5f) - 0x3f000000u;
  Bits const normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  Bits const special = magnitude > 0x7f800000u ? Bits{} + 0x7fffu : Bits{} + 0x7c00u;
  Bits const rounded = magnitude < 0x38800000u ? subnormal : normal;
  return (bits >> 16 & 0x8000u) | (magnitude >= 0x477ff000u ? special : rounded);
}

template <class Bits, class Float>
Bits float_to_bfloat16_bits(Float value) {
  Bits const bits = bit_cast<Bits>(value);
  Bits const rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? Bits{} + 0x7fffu : rounded;
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
  return detail::half_bits_to_float<float>(uint32_t(value.storage));
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
  return cutlass::bfloat16_t::bitcast(uint16_t(detail::float_to_bfloat16_bits<uint32_t>(value)));
#endif
}

template <> CUTE_HOST_DEVICE cutlass::half_t from_accumulator<cutlass::half_t>(float value) {
#if defined(__CUDA_ARCH__)
  return cutlass::half_t::bitcast(__half_as_ushort(__float2half_rn(value)));
#else
  return cutlass::half_t::bitcast(uint16_t(detail::float_to_half_bits<uint32_t>(value)));
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
