// The CUDA kernel and its launcher: threads are mapped to vectors, token by token, without a gap between rows.
#pragma once

#include <algorithm>

#include <cuda_runtime.h>
#include <cutlass/fast_math.h>

#include "launch.hpp"
#include "sum_reduce.hpp"

namespace moe_cute {

struct Grid {
  cutlass::FastDivmod vectors_per_row;  // unused where the hidden size is a constant
  int32_t vectors;
  bool prefetch;
};

// The largest block. The 1 beside it, in the launch bounds, lets ptxas spend registers on loads in flight: without it, it
// saves them for an occupancy that a kernel bound by latency does not need, and issues two or three loads at a time.
inline constexpr int kMaxThreads = 512;

__device__ __forceinline__ void allow_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Computes a value here and now: left to itself, the compiler computes addresses where they are used, after the wait.
template <class Value>
__device__ __forceinline__ void compute_now(Value& value) {
  asm volatile("" : "+l"(value));
}

// One lane of each 128-byte line asks for it, in every row: while the kernel before drains, the rows come in.
template <class C>
__device__ __forceinline__ void prefetch_rows(Operands<C> const& operands, Place<C> const& place) {
  bool const first_of_line = (reinterpret_cast<uintptr_t>(place.input) & 127) < sizeof(Element<C::kDType>) * C::kVectorWidth;
  int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
  CUTE_UNROLL
  for (int k = 0; k < topk; ++k) {
    if (first_of_line) prefetch_line(place.input + slot_of(operands, place.token, k, true).offset);
  }
}

template <class C>
__global__ void __launch_bounds__(kMaxThreads, 1)
    sum_reduce_kernel(__grid_constant__ Operands<C> const operands, __grid_constant__ Grid const grid) {
  allow_next_kernel();
  int32_t const thread = blockIdx.x * blockDim.x + threadIdx.x;
  int32_t const index = min(thread, grid.vectors - 1);
  int32_t token, vector;
  if constexpr (C::kHidden != kAny) {
    constexpr int kVectorsPerRow = C::kHidden / C::kVectorWidth;
    token = index / kVectorsPerRow;
    vector = index % kVectorsPerRow;
  } else {
    grid.vectors_per_row(token, vector, index);
  }
  Place<C> place = place_of(operands, token, int64_t(vector) * C::kVectorWidth);
  if constexpr (C::kEpilogue == Epilogue::kPlain && C::kVectorWidth > 1) {
    compute_now(place.input);
    compute_now(place.output);
    if (grid.prefetch) prefetch_rows(operands, place);
  }
  // Every block waits, also one with nothing to do: else this grid could end before the one it depends on, and a third
  // that waits for this one alone would read too early.
  wait_for_previous_kernel();
  sum_reduce_vector(operands, place, thread < grid.vectors);
}

template <class C>
cudaError_t launch_part(Operands<C> const& operands, int64_t tokens, int64_t hidden, LaunchShape const& shape) {
  Grid grid{};
  int64_t const vectors_per_row = hidden / C::kVectorWidth;
  grid.vectors_per_row = cutlass::FastDivmod(static_cast<int>(vectors_per_row));
  grid.vectors = static_cast<int32_t>(tokens * vectors_per_row);
  grid.prefetch = shape.prefetch;

  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3((grid.vectors + shape.threads - 1) / shape.threads);
  config.blockDim = dim3(shape.threads);
  config.stream = static_cast<cudaStream_t>(shape.stream);
  config.attrs = &attribute;
  config.numAttrs = shape.programmatic_dependent_launch ? 1 : 0;
  return cudaLaunchKernelEx(&config, sum_reduce_kernel<C>, operands, grid);
}

// The index of a vector within one launch is an int32, so a call beyond that is several launches.
template <class C>
char const* launch_cuda(SumReduceArguments const& call, LaunchShape const& shape) {
  constexpr int64_t kMaxVectors = int64_t(1) << 30;
  int64_t const hidden_part = std::min(call.hidden, kMaxVectors * C::kVectorWidth);
  int64_t const tokens_part = std::max<int64_t>(1, kMaxVectors / (hidden_part / C::kVectorWidth));
  for (int64_t hidden = 0; hidden < call.hidden; hidden += hidden_part) {
    for (int64_t token = 0; token < call.tokens; token += tokens_part) {
      cudaError_t const error =
          launch_part<C>(operands_of<C>(call, token, hidden), std::min(tokens_part, call.tokens - token),
                         std::min(hidden_part, call.hidden - hidden), shape);
      if (error != cudaSuccess) return cudaGetErrorString(error);
    }
  }
  return nullptr;
}

}  // namespace moe_cute
