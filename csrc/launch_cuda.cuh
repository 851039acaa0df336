// The CUDA kernel and its launcher: threads are mapped to vectors, token by token, without a gap between rows.
#pragma once

#include <algorithm>

#include <cuda_runtime.h>
#include <cutlass/fast_math.h>

#include "dependent_launch.cuh"
#include "launch.hpp"
#include "sum_reduce.hpp"

namespace moe_cute {

struct Grid {
  cutlass::FastDivmod vectors_per_row;  // unused where the hidden size is a constant
  int32_t vectors;                      // of this launch
  int32_t stride;                       // threads of this launch
  int32_t first_token;                  // of this launch in the call
  bool prefetch;
};

// The largest block, and the blocks of that size that shall fit a multiprocessor. To name a number of blocks lets ptxas
// spend registers on loads in flight: unasked, it saves them for an occupancy that a kernel bound by latency does not
// need, and issues two or three loads at a time. A fused kernel would take so many that too few threads were left.
template <class C>
inline constexpr int kMaxThreads = C::kEpilogue == Epilogue::kPlain ? 512 : 256;

template <class C>
inline constexpr int kRowRegisters = kRowsInFlight<C> * C::kVectorWidth * int(sizeof(Element<C::kDType>)) / 4;

template <class C>
inline constexpr bool kIsLightlyFused = C::kEpilogue == Epilogue::kWeighted && kRowRegisters<C> <= 24;

template <class C>
inline constexpr int kMinBlocks = C::kEpilogue == Epilogue::kPlain ? 1
                                  : kIsLightlyFused<C>             ? 3
                                                                   : 2;

// Computes a value here and now: left to itself, the compiler computes addresses where they are used, after the wait.
template <class Value>
__device__ __forceinline__ void compute_now(Value& value) {
  asm volatile("" : "+l"(value));
}

// Where K slots' rows begin, from the place in the input, or -1: guesses that are right unless the kernel before has
// just written the indices. All are on their way before the first is used.
template <class C, int K>
__device__ __forceinline__ void guess_offsets(Operands<C> const& operands, int64_t token, int first, int topk,
                                              int64_t (&offsets)[K]) {
  CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    offsets[k] =
        first + k < topk ? (first + k) * (C::kHidden == kAny ? operands.input_topk_stride : int64_t(C::kHidden)) : -1;
  }
  if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
    if (!operands.is_permuted) return;
    IndexMatrix const& matrix = operands.rows_of_slots;
    int64_t rows[K];
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) {
      int64_t const at = token * matrix.token_stride + min(first + k, topk - 1) * matrix.topk_stride;
      rows[k] = matrix.is_int64 ? glance(static_cast<int64_t const*>(matrix.data) + at)
                                : glance(static_cast<int32_t const*>(matrix.data) + at);
    }
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) {
      bool const exists = first + k < topk && rows[k] >= 0 && rows[k] < operands.rows;
      offsets[k] = exists ? rows[k] * operands.input_token_stride : -1;
    }
  }
}

__device__ __forceinline__ void prefetch_slots(void const* data, int64_t element, int bytes) {
  if (data) prefetch_line(static_cast<char const*>(data) + element * bytes);
}

// One lane of each 128-byte line asks for it, in every row, and for what the token's slots and shared row hold: while
// the kernel before drains, they come in. No value is used, so it is safe before the wait.
template <class C>
__device__ __forceinline__ void prefetch_token(Operands<C> const& operands, Place<C> const& place) {
  constexpr int K = kRowsInFlight<C>;
  if ((reinterpret_cast<uintptr_t>(place.input) & 127) >= sizeof(Element<C::kDType>) * C::kVectorWidth) return;
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    int64_t const token = place.token;
    prefetch_slots(operands.weights.data, token * operands.weights.token_stride,
                   operands.weights.is_float32 ? 4 : int(sizeof(Element<C::kDType>)));
    prefetch_slots(operands.shared, token * operands.shared_token_stride + place.hidden,
                   element_bytes(operands.output_dtype));
  }
  int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
  for (int first = 0; first < topk; first += K) {
    int64_t offsets[K];
    guess_offsets(operands, place.token, first, topk, offsets);
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) {
      if ((C::kEpilogue < Epilogue::kPermuted && C::kTopK == K) || offsets[k] >= 0)
        prefetch_line(place.input + offsets[k]);
    }
  }
}

// Vectors of live tokens: all of them, but where the call has a count on the device.
template <class C>
__device__ __forceinline__ int32_t live_vectors(Operands<C> const& operands, Grid const& grid) {
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens) {
      int32_t const vectors_per_row = grid.vectors_per_row.divisor;
      int64_t const live = int64_t(*operands.live_tokens) - grid.first_token;
      int64_t const tokens = grid.vectors / vectors_per_row;
      return static_cast<int32_t>(min(max(live, int64_t(0)), tokens)) * vectors_per_row;
    }
  }
  return grid.vectors;
}

template <class C>
__device__ __forceinline__ Place<C> place_of_vector(Operands<C> const& operands, Grid const& grid, int32_t index) {
  int32_t token, vector;
  if constexpr (C::kHidden != kAny) {
    constexpr int kVectorsPerRow = C::kHidden / C::kVectorWidth;
    token = index / kVectorsPerRow;
    vector = index % kVectorsPerRow;
  } else {
    grid.vectors_per_row(token, vector, index);
  }
  return place_of(operands, token, int64_t(vector) * C::kVectorWidth);
}

template <class C>
__global__ void __launch_bounds__(kMaxThreads<C>, kMinBlocks<C>)
    sum_reduce_kernel(__grid_constant__ Operands<C> const operands, __grid_constant__ Grid const grid) {
  allow_next_kernel();
  int32_t const thread = blockIdx.x * blockDim.x + threadIdx.x;
  Place<C> place = place_of_vector(operands, grid, min(thread, grid.vectors - 1));
  compute_now(place.input);
  compute_now(place.output);
  if constexpr (C::kVectorWidth > 1) {
    if (grid.prefetch) prefetch_token(operands, place);
  }
  // Every block waits, also one with nothing to do: else this grid could end before the one it depends on, and a third
  // that waits for this one alone would read too early.
  wait_for_previous_kernel();
  int32_t const vectors = live_vectors(operands, grid);
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    // A grid for a count on the device does not grow with the capacity: each thread has several vectors, or none.
    if (thread >= vectors) return;
    sum_reduce_vector(operands, place);
    for (int32_t index = thread + grid.stride; index < vectors && index > thread; index += grid.stride) {
      sum_reduce_vector(operands, place_of_vector(operands, grid, index));
    }
  } else {
    sum_reduce_vector(operands, place, thread < vectors);
  }
}

template <class C>
cudaError_t launch_part(Operands<C> const& operands, int64_t first_token, int64_t tokens, int64_t hidden,
                        LaunchShape const& shape) {
  Grid grid{};
  int64_t const vectors_per_row = hidden / C::kVectorWidth;
  grid.vectors_per_row = cutlass::FastDivmod(static_cast<int>(vectors_per_row));
  grid.vectors = static_cast<int32_t>(tokens * vectors_per_row);
  grid.first_token = static_cast<int32_t>(std::min<int64_t>(first_token, INT32_MAX));  // a count is an int32, too
  grid.prefetch = shape.prefetch;
  int const threads = std::min(shape.threads, kMaxThreads<C>);
  int64_t blocks = (grid.vectors + threads - 1) / threads;
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens)
      blocks = std::min(blocks, int64_t(shape.multiprocessors) * kMinBlocks<C> * kMaxThreads<C> / threads);
  }
  grid.stride = static_cast<int32_t>(blocks * threads);

  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads);
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
          launch_part<C>(operands_of<C>(call, token, hidden), token, std::min(tokens_part, call.tokens - token),
                         std::min(hidden_part, call.hidden - hidden), shape);
      if (error != cudaSuccess) return cudaGetErrorString(error);
    }
  }
  return nullptr;
}

}  // namespace moe_cute
