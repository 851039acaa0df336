// The CUDA kernel and its launcher: threads are mapped to vectors, token by token, without a gap between rows.
#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include "dependent_launch.cuh"
#include "forecast.cuh"
#include "launch.hpp"

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
  Divider vectors_per_row;     // unused where the hidden size is a constant
  int32_t vectors;             // of this launch
  int32_t stride;              // threads of this launch
  int32_t first_token;         // of this launch in the call
  int32_t first_block;         // the thread with which the first block starts
  int32_t to_next_block;       // from there to the next block's
  int32_t tokens;              // of this launch
  int32_t ahead;               // how many tokens farther another will run in this one's place
  int32_t prefetching_blocks;  // the first of this launch
};

// Only the blocks that start before the kernel before has ended have time to prefetch, and memory brings in about so
// many bytes for each multiprocessor meanwhile. The others would ask for each line twice. On an H100, bfloat16 [1024,
// 8, 2048] took 13.4 us without prefetch, 13.1 with it in every block, and 12.6 with it in these; [8192, 8,
// 2048] 98.9, 98.5 and 98.1.
inline constexpr int kPrefetchedBytes = 64 * 1024;

template <class C>
int64_t prefetching_blocks(int topk, int threads, int multiprocessors) {
  int64_t const bytes_of_block = int64_t(topk) * C::kVectorWidth * sizeof(Element<C::kDType>) * threads;
  return (int64_t(multiprocessors) * kPrefetchedBytes + bytes_of_block - 1) / std::max<int64_t>(1, bytes_of_block);
}

// An input that does not fit the L2 cache was written from its first token to its last, and of the last much is still
// there. Read backwards, of what another kernel has just written, float16 [1024, 8, 4096] took 18.7 us in place
// of 25.1, bfloat16 [8192, 8, 2048] 93.5 in place of 99.4; smaller ones lost up to 10 %, and cold ones did not care.
inline constexpr double kForwardShareOfL2 = 0.6;

inline bool runs_backwards(double input_bytes, int64_t l2_bytes) { return input_bytes > kForwardShareOfL2 * l2_bytes; }

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
  int const indices = kRows * (C::kEpilogue == Epilogue::kRouted || kForecasts<C> ? 2 : 1);
  int const loop = C::kTopK == kAny ? 40 : 0;
  int const conversions = C::kDType == DType::kFloat16 ? C::kVectorWidth : 0;
  int const finish = C::kEpilogue == Epilogue::kRouted ? 4 : 0;
  return rows + sums_and_weights + indices + loop + conversions + finish;
}

template <class C>
inline constexpr int kMinBlocks = C::kEpilogue == Epilogue::kPlain                                 ? 1
                                  : held_registers<C>() <= 56 && C::kEpilogue != Epilogue::kRouted ? 4
                                  : held_registers<C>() <= 64                                      ? 3
                                  : held_registers<C>() <= 104                                     ? 2
                                                                                                   : 1;

// The threads of a multiprocessor where the live tokens are counted on the device: those that a batch of decoding has
// vectors for, within bounds. So many that enough loads are on their way when all tokens are live; so few that those
// with nothing to do cost little, and that two launches fit beside each other, of which one is still waiting.
inline constexpr int kLiveBatch = 64;  // tokens
inline constexpr int kFewestLiveThreads = 512;
inline constexpr int kMostLiveThreads = 768;

inline int64_t live_blocks(int64_t vectors_per_row, int threads, int multiprocessors) {
  int64_t const fewest = int64_t(multiprocessors) * kFewestLiveThreads;
  int64_t const most = int64_t(multiprocessors) * kMostLiveThreads;
  return (kLiveBatch * vectors_per_row <= fewest ? fewest : most) / threads;
}

// Vectors of live tokens, where the call has a count of them on the device: all others are.
template <class C>
__device__ __forceinline__ int32_t live_vectors(Operands<C> const& operands, Grid const& grid, int32_t count) {
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens) {
      int32_t const vectors_per_row = grid.vectors_per_row.divisor;
      int64_t const live = int64_t(count) - grid.first_token;
      return static_cast<int32_t>(min(max(live, int64_t(0)), int64_t(grid.tokens))) * vectors_per_row;
    }
  }
  return grid.vectors;
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

// Whether a vector's warp has one before `end`: its lanes go on together.
__device__ __forceinline__ bool has_warp_before(int32_t vector, int32_t end) { return vector / 32 * 32 < end; }

// Where threads have several vectors each, the second is brought in too. More are not worth a line's second request.
template <class C>
__device__ __forceinline__ void prefetch_second(Operands<C> const& operands, Grid const& grid, int32_t index,
                                                int32_t vectors) {
  if constexpr (C::kVectorWidth > 1) {
    if (!has_warp_before(index, vectors)) return;
    prefetch_token(operands, place_of_vector(operands, grid, min(index, vectors - 1)));
  }
}

template <class C>
__global__ void __launch_bounds__(kMaxThreads<C>, kMinBlocks<C>)
    sum_reduce_kernel(__grid_constant__ Operands<C> const operands, __grid_constant__ Grid const grid) {
  allow_next_kernel();
  int32_t const thread = grid.first_block + static_cast<int32_t>(blockIdx.x) * grid.to_next_block + threadIdx.x;
  bool const never = grid.prefetching_blocks < 0;
  // How many tokens are live may be about to change: the warp's lanes go on together, by one answer.
  int32_t count = 0;
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    count = __shfl_sync(0xffffffffu, look_at_count(operands.live_tokens), 0);
  }
  int32_t const expected = live_vectors(operands, grid, count);
  bool const is_expected = C::kEpilogue != Epilogue::kRouted || has_warp_before(thread, expected);
  Place<C> place = place_of_vector(operands, grid, min(thread, (is_expected ? expected : grid.vectors) - 1));
  if constexpr (!kForecasts<C>) keep(place.input, never);
  Forecast<C> forecast;
  if constexpr (C::kVectorWidth > 1) {
    // A condition that all threads of a block share: any other costs a plain launch, which jumps over it, 4 %.
    if (static_cast<int32_t>(blockIdx.x) < grid.prefetching_blocks) {
      if (is_expected) {
        if constexpr (kGuesses<C>) {
          forecast = guess_rows(operands, place, count);
        } else {
          prefetch_token(operands, place);
        }
      }
      if constexpr (C::kEpilogue == Epilogue::kRouted) prefetch_second(operands, grid, thread + grid.stride, expected);
    }
  }
  Finish<C> finish = finish_of(operands, place, thread < expected);
  if constexpr (kForecasts<C>) {
    if constexpr (!kGuesses<C>) forecast = known_rows(operands, place);
    keep_forecast(forecast, never);
  }
  if constexpr (kForecasts<C> || C::kEpilogue == Epilogue::kPlain) keep_finish(finish, never);
  // A grid for a count on the device does not grow with the capacity: each thread has several vectors, or none.
  bool has_more = has_warp_before(thread + grid.stride, expected);
  if constexpr (C::kEpilogue == Epilogue::kRouted && kForecasts<C>) keep(has_more, never);
  if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
    if (grid.prefetching_blocks == 0) prefetch_slots(operands, place.token);
    int64_t const successor = place.token + (grid.to_next_block < 0 ? -grid.ahead : grid.ahead);
    if (successor >= 0 && successor < grid.tokens) prefetch_slots(operands, successor);
  }
  // Every block waits, also one with nothing to do: else this grid could end before the one it depends on, and a third
  // that waits for this one alone would read too early.
  wait_for_previous_kernel();
  bool is_done = false;
  if constexpr (kForecasts<C>) is_done = sum_forecast_vector(forecast, finish);
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (is_done && !has_more) return;
    int32_t const vectors = is_done ? expected : live_vectors(operands, grid, look_at_count(operands.live_tokens));
    for (int32_t index = is_done ? thread + grid.stride : thread; has_warp_before(index, vectors);
         index += grid.stride) {
      Place<C> const next = place_of_vector(operands, grid, min(index, vectors - 1));
      sum_reduce_vector(operands, next, finish_of(operands, next, index < vectors));
    }
  } else if (!is_done) {
    sum_reduce_vector(operands, place, finish);
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
  grid.tokens = static_cast<int32_t>(tokens);
  grid.ahead = static_cast<int32_t>(resident_threads / vectors_per_row);
  int64_t blocks = (grid.vectors + threads - 1) / threads;
  double const row_bytes = double(hidden) * sizeof(Element<C::kDType>);
  bool backwards = runs_backwards(row_bytes * tokens * operands.topk, shape.l2_bytes);
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens) {
      backwards = false;  // the live ones come first
      blocks = std::min(blocks, live_blocks(vectors_per_row, threads, shape.multiprocessors));
    }
  }
  grid.first_block = backwards ? static_cast<int32_t>((blocks - 1) * threads) : 0;
  grid.to_next_block = backwards ? -threads : threads;
  int64_t const prefetching = prefetching_blocks<C>(operands.topk, threads, shape.multiprocessors);
  grid.prefetching_blocks = shape.prefetch ? static_cast<int32_t>(std::min(blocks, prefetching)) : 0;
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
  constexpr int64_t kMaxVectors = (int64_t(1) << 30) - 1024;  // so that two grids' threads fit as well
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
