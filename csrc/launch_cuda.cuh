// The CUDA kernel and its launcher: threads are mapped to vectors, token by token, without a gap between rows.
#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include "dependent_launch.cuh"
#include "launch.hpp"
#include "prefetch.cuh"
#include "sum_reduce.hpp"

namespace moe_cute {

// Divides by a multiplication, and differs from cutlass::FastDivmod in that a divisor of one is no special case: a
// predicate on a constant would put two loads of constants in a row at the head of every kernel's critical path.
struct Divider {
  uint32_t divisor;
  uint32_t multiplier;  // ceil(2^(31 + shift) / divisor), where 2^shift >= divisor: exact for dividends below 2^30
  uint32_t shift;

  static Divider by(uint32_t divisor) {
    uint32_t shift = 0;
    while ((uint64_t(1) << shift) < divisor) ++shift;
    uint64_t const multiplier = ((uint64_t(1) << (31 + shift)) + divisor - 1) / divisor;
    return {divisor, static_cast<uint32_t>(multiplier), shift};
  }

  __device__ __forceinline__ void operator()(uint32_t dividend, uint32_t& quotient, uint32_t& remainder) const {
    quotient = __umulhi(2 * dividend, multiplier) >> shift;
    remainder = dividend - quotient * divisor;
  }
};

struct Grid {
  Divider vectors_per_row;      // unused where the hidden size is a constant
  int32_t vectors;              // of this launch
  int32_t stride;               // threads of this launch
  int32_t first_token;          // of this launch in the call
  int32_t ahead;                // how many tokens later another will run in this one's place
  int32_t tokens_before_ahead;  // how many tokens have such a successor
  int32_t prefetching_blocks;   // the first of this launch
};

// Only the blocks that start before the kernel before has ended have time to prefetch: about this many threads of a
// multiprocessor. The others would ask for each line twice. On an H100, bfloat16 [1024, 8, 2048] took 13.4 us without
// prefetch, 13.1 with it in every block, and 12.6 with it in these; [8192, 8, 2048] 98.9, 98.5 and 98.1.
inline constexpr int kPrefetchingThreads = 1024;

// The largest block, and the blocks of that size that shall fit a multiprocessor. To name a number of blocks lets ptxas
// spend registers on loads in flight: unasked, it saves them for an occupancy that a kernel bound by latency does not
// need, and issues two or three loads at a time. A fused kernel's blocks follow from the registers that a thread must
// hold at once.
template <class C>
inline constexpr int kMaxThreads = max_threads(C::kEpilogue);

template <class C>
constexpr int held_registers() {
  constexpr int kRows = kRowsInFlight<C>;
  constexpr int kAccumulatorBytes = sizeof(Accumulator<Element<C::kDType>>);
  int const rows = kRows * C::kVectorWidth * int(sizeof(Element<C::kDType>)) / 4;
  int const sums_and_weights = (kRows + C::kVectorWidth) * kAccumulatorBytes / 4;
  int const indices = kRows * (C::kEpilogue == Epilogue::kRouted || kMayGuess<C> ? 2 : 1);
  int const loop = C::kTopK == kAny ? 32 : 0;
  int const conversions_ahead = C::kEpilogue == Epilogue::kRouted ? 3 : 2;
  int const halves_converted_ahead = C::kDType == DType::kFloat16 ? conversions_ahead * C::kVectorWidth : 0;
  return rows + sums_and_weights + indices + loop + halves_converted_ahead;
}

template <class C>
inline constexpr int kMinBlocks = C::kEpilogue == Epilogue::kPlain                                 ? 1
                                  : held_registers<C>() <= 56 && C::kEpilogue != Epilogue::kRouted ? 4
                                  : held_registers<C>() <= 64                                      ? 3
                                  : held_registers<C>() <= 104                                     ? 2
                                                                                                   : 1;

// The threads of a multiprocessor where the live tokens are counted on the device: enough for the memory's bandwidth
// when all are live, few enough that those with nothing to do cost little when few are.
inline constexpr int kLiveThreads = 1024;

// Has an address computed here: the compiler puts off all that is used only after the wait, and nothing but an
// instruction that takes the address, never carried out, keeps it before.
template <class T>
__device__ __forceinline__ void compute_now(T const*& address, bool never) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %1, 0; @p prefetch.global.L2 [%0]; }" : "+l"(address) : "r"(int(never)));
}

// Vectors of live tokens: all of them, but where the call has a count on the device.
template <class C>
__device__ __forceinline__ int32_t live_vectors(Operands<C> const& operands, Grid const& grid) {
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens) {
      int32_t const vectors_per_row = grid.vectors_per_row.divisor;
      int64_t const live = int64_t(load_now(operands.live_tokens)) - grid.first_token;
      int64_t const tokens = grid.vectors / vectors_per_row;
      return static_cast<int32_t>(min(max(live, int64_t(0)), tokens)) * vectors_per_row;
    }
  }
  return grid.vectors;
}

// Likewise before the wait, when the count may be about to change: one answer for a warp, whose lanes go on together.
template <class C>
__device__ __forceinline__ int32_t expected_vectors(Operands<C> const& operands, Grid const& grid) {
  if constexpr (C::kEpilogue != Epilogue::kRouted) return grid.vectors;
  return __shfl_sync(0xffffffffu, live_vectors(operands, grid), 0);
}

template <class C>
__device__ __forceinline__ Place<C> place_of_vector(Operands<C> const& operands, Grid const& grid, uint32_t index) {
  uint32_t token, vector;
  if constexpr (C::kHidden != kAny) {
    constexpr int kVectorsPerRow = C::kHidden / C::kVectorWidth;
    token = index / kVectorsPerRow;
    vector = index % kVectorsPerRow;
  } else {
    grid.vectors_per_row(index, token, vector);
  }
  return place_of(operands, token, int64_t(vector) * C::kVectorWidth);
}

template <class C>
__global__ void __launch_bounds__(kMaxThreads<C>, kMinBlocks<C>)
    sum_reduce_kernel(__grid_constant__ Operands<C> const operands, __grid_constant__ Grid const grid) {
  allow_next_kernel();
  int32_t const thread = blockIdx.x * blockDim.x + threadIdx.x;
  bool const never = grid.prefetching_blocks < 0;
  Place<C> place = place_of_vector(operands, grid, min(thread, grid.vectors - 1));
  compute_now(place.input, never);
  int32_t const expected = expected_vectors(operands, grid);
  Guess<C> guess;
  if constexpr (C::kVectorWidth > 1) {
    // A condition that all threads of a block share: any other costs a plain launch, which jumps over it, 4 %.
    if (static_cast<int32_t>(blockIdx.x) < grid.prefetching_blocks) {
      bool const is_live = C::kEpilogue != Epilogue::kRouted || thread / 32 * 32 < expected;
      if (is_live) guess = prefetch_token(operands, place);
    }
  }
  Addresses<C> addresses{};
  if constexpr (kAddressesEarly<C>) {
    SlotRows<C, C::kTopK> const slots(operands, place.token, 0, C::kTopK);
    CUTE_UNROLL
    for (int k = 0; k < C::kTopK; ++k) {
      addresses.rows[k] = place.input + slots.offset(operands, k);
      compute_now(addresses.rows[k], never);
    }
  }
  if constexpr (kMayGuess<C>) {
    CUTE_UNROLL
    for (int k = 0; k < C::kTopK; ++k) {
      addresses.rows[k] = place.input + (guess.made ? guess.rows.offset(operands, k) : 0);
      compute_now(addresses.rows[k], never);
    }
  }
  if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
    if (grid.prefetching_blocks == 0) prefetch_slots(operands, place.token);
    if (place.token < grid.tokens_before_ahead) prefetch_slots(operands, place.token + grid.ahead);
  }
  // Every block waits, also one with nothing to do: else this grid could end before the one it depends on, and a third
  // that waits for this one alone would read too early.
  wait_for_previous_kernel();
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    // Where a live token is expected, its rows are on their way while the count is looked up again.
    if (thread >= expected && thread >= live_vectors(operands, grid)) return;
    int32_t const vectors = live_vectors(operands, grid);
    sum_reduce_vector(operands, place, thread < vectors);
    // A grid for a count on the device does not grow with the capacity: each thread has several vectors, or none.
    for (uint32_t index = uint32_t(thread) + grid.stride; index < uint32_t(vectors); index += grid.stride) {
      sum_reduce_vector(operands, place_of_vector(operands, grid, index));
    }
  } else {
    sum_reduce_vector(operands, place, thread < grid.vectors, addresses, guess);
  }
}

template <class C>
cudaError_t launch_part(Operands<C> const& operands, int64_t first_token, int64_t tokens, int64_t hidden,
                        LaunchShape const& shape) {
  Grid grid{};
  int64_t const vectors_per_row = hidden / C::kVectorWidth;
  grid.vectors_per_row = Divider::by(static_cast<uint32_t>(vectors_per_row));
  grid.vectors = static_cast<int32_t>(tokens * vectors_per_row);
  grid.first_token = static_cast<int32_t>(std::min<int64_t>(first_token, INT32_MAX));  // a count is an int32, too
  int const threads = std::min(shape.threads, kMaxThreads<C>);
  int64_t const resident_threads = int64_t(shape.multiprocessors) * kMinBlocks<C> * kMaxThreads<C>;
  int64_t const ahead = resident_threads / vectors_per_row;
  grid.ahead = static_cast<int32_t>(ahead);
  grid.tokens_before_ahead = static_cast<int32_t>(std::max<int64_t>(0, tokens - ahead));
  int64_t blocks = (grid.vectors + threads - 1) / threads;
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens) blocks = std::min(blocks, int64_t(shape.multiprocessors) * kLiveThreads / threads);
  }
  int64_t const prefetching = shape.prefetch ? int64_t(shape.multiprocessors) * kPrefetchingThreads / threads : 0;
  grid.prefetching_blocks = static_cast<int32_t>(std::min(blocks, prefetching));
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
