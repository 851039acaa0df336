// The CUDA kernel: threads are mapped to vectors, token by token, without a gap between rows.
#pragma once

#include "dependent_launch.cuh"
#include "forecast.cuh"
#include "grid.cuh"
#include "lane_rows.cuh"
#include "occupancy.cuh"

namespace moe_cute {

// Where threads have several vectors each, the second is brought in too. More are not worth a line's second request.
template <class C>
__device__ __forceinline__ void prefetch_second(Operands<C> const& operands, Grid const& grid, int32_t index,
                                                int32_t vectors) {
  if constexpr (C::kVectorWidth > 1) {
    if (!has_warp_before(index, vectors)) return;
    prefetch_token(operands, place_of_vector(operands, grid, min(index, vectors - 1)));
  }
}

// The row of a looked-up slot is two latencies away from a thread's start. So one thread of each block asks for the
// slots of the token that will follow in its place, and, where none has asked for its own, for those.
template <class C>
__device__ __forceinline__ void prefetch_slots_ahead(Operands<C> const& operands, Grid const& grid, int64_t token) {
  if (grid.prefetching_blocks == 0) prefetch_slots(operands, token);
  int64_t const successor = token + (grid.to_next_block < 0 ? -grid.ahead : grid.ahead);
  if (successor >= 0 && successor < grid.tokens) prefetch_slots(operands, successor);
}

// Sums a vector of which nothing has been found out before the wait, or nothing true. By the whole warp.
template <class C>
__device__ __forceinline__ void sum_vector(Operands<C> const& operands, Place<C> const& place,
                                           Finish<C> const& finish) {
  if constexpr (C::kEpilogue == Epilogue::kWeighted && C::kTopK != kAny && C::kVectorWidth > 1) {
    if (!sum_forecast_vector(known_rows(operands, place), finish)) sum_slot_by_slot(operands, place, finish);
  } else if constexpr (kAsksLanes<C>) {
    LaneRows<C> const slots(operands, place);
    if (slots.made() && operands.has_wide_slots) {
      Sum<C> sum;
      add_slot_rows<C::kTopK>(operands, place, finish, slots, 0, C::kTopK, sum);
      sum.store(finish);
    } else {
      sum_slot_by_slot(operands, place, finish);
    }
  } else {
    sum_reduce_vector(operands, place, finish);
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
    if (threadIdx.x == 0) prefetch_slots_ahead(operands, grid, place.token);
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
      sum_vector(operands, next, finish_of(operands, next, index < vectors));
    }
  } else if (!is_done) {
    sum_vector(operands, place, finish);
  }
}

}  // namespace moe_cute
