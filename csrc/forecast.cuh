// What a thread has at hand when the kernel before ends, so that little but the rows' loads is left to do.
//
// In a chain of launches all that comes before `griddepcontrol.wait` is free, since that kernel still runs (a spin of 2
// us there took no time), and what comes after is not. So slots are looked up before the wait, when they may be about
// to change, and again while the rows are on their way: a warp that finds another value starts anew. And what a thread
// needs after the wait it keeps in registers: a parameter that was read long before is no longer in the constant cache.
// On an H100 bfloat16 [1, 8, 2048], unpermuted and weighted, took 1.34 us where all of that came after the wait, and
// takes 0.84.
#pragma once

#include "keep.cuh"
#include "lane_slot.cuh"
#include "own_weights.cuh"
#include "prefetch.cuh"
#include "sum_reduce.hpp"
#include "warp_lines.cuh"

namespace moe_cute {

// Kernels of narrow vectors do this, which are those of few tokens: many hide such latencies by themselves. Packed rows
// are at constant distances. Where rows are looked up, a warp must have a lane for each slot.
template <class C>
inline constexpr bool kForecasts =
    C::kTopK != kAny && C::kVectorWidth * sizeof(Element<C::kDType>) <= 8 && !kIsPacked<C> &&
    (C::kEpilogue == Epilogue::kPlain ||
     (C::kVectorWidth > 1 && (C::kEpilogue == Epilogue::kWeighted || C::kTopK <= WarpLines<C>::kSlots)));

// Whether rows are looked up, and so only expected; else they are known.
template <class C>
inline constexpr bool kGuesses = kForecasts<C> && C::kEpilogue >= Epilogue::kPermuted;

template <class C>
__device__ __forceinline__ void keep_finish(Finish<C>& finish, bool never) {
  keep(finish.scale, never);
  keep(finish.output, never);
  if constexpr (C::kEpilogue != Epilogue::kPlain) keep(finish.shared, never);
  if constexpr (C::kEpilogue == Epilogue::kRouted) keep(finish.dtype, never);
}

template <class C>
struct Forecast {
  using T = Element<C::kDType>;

  bool made = false;  // by the whole warp
  T const* rows[C::kTopK == kAny ? 1 : C::kTopK];
  bool nears_end;         // Place's
  OwnWeights<C> weights;  // where rows are known
  // Where they are guessed:
  LaneSlot<C> slot;                   // of this lane
  typename LaneSlot<C>::Found found;  // in that slot
  bool takes_part;                    // likewise
  uint32_t taking_part;               // slots of this thread's token, as votes_of_line
  int32_t const* live_tokens = nullptr;
  int32_t live = 0;
};

// What the lanes have, as weights of a thread's own token.
template <class C>
__device__ __forceinline__ SlotWeights<C, C::kTopK> gather_weights(float weight_of_lane) {
  SlotWeights<C, C::kTopK> weights;
  CUTE_UNROLL
  for (int k = 0; k < C::kTopK; ++k) weights.values[k] = WarpLines<C>::of_slot(weight_of_lane, k);
  return weights;
}

// To be made by the whole warp, as all that follows. Each lane looks up one slot and tells the others: on an H100 each
// thread's own look at all of them took bfloat16 [1, 8, 2048], unpermuted and weighted, 1.20 us in place of 0.84.
template <class C>
__device__ __forceinline__ Forecast<C> guess_rows(Operands<C> const& operands, Place<C> const& place, int32_t live) {
  using Lines = WarpLines<C>;
  Forecast<C> forecast;
  forecast.slot = slot_of_lane(operands, place, forecast.made);
  if constexpr (C::kEpilogue == Epilogue::kRouted) forecast.live_tokens = operands.live_tokens;
  forecast.live = live;
  forecast.found = forecast.slot.look();
  int32_t const row = forecast.slot.row(operands, forecast.found);
  forecast.takes_part = row >= 0;
  forecast.taking_part = Lines::votes_of_line(__ballot_sync(0xffffffffu, forecast.takes_part));
  prefetch_rows(operands, place, [row](int) { return row; });
  prefetch_weights(operands, place);
  CUTE_UNROLL
  for (int k = 0; k < C::kTopK; ++k) {
    forecast.rows[k] = in_row(operands, place.input, Lines::of_slot(row, k));
  }
  return forecast;
}

template <class C>
__device__ __forceinline__ Forecast<C> known_rows(Operands<C> const& operands, Place<C> const& place) {
  Forecast<C> forecast;
  forecast.made = true;
  forecast.nears_end = place.nears_end;
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    forecast.weights = OwnWeights<C>(operands.weights, place.token);
    forecast.made = operands.has_wide_slots;
  }
  CUTE_UNROLL
  for (int k = 0; k < C::kTopK; ++k) forecast.rows[k] = in_row(operands, place.input, k);
  return forecast;
}

template <class C>
__device__ __forceinline__ void keep_forecast(Forecast<C>& forecast, bool never) {
  CUTE_UNROLL
  for (int k = 0; k < C::kTopK; ++k) keep(forecast.rows[k], never);
  if constexpr (kGuesses<C>) {
    forecast.slot.keep_weight(never);
  } else if constexpr (C::kEpilogue != Epilogue::kPlain) {
    forecast.weights.keep(never);
  }
}

// A count of live tokens, or zero where the call has none.
__device__ __forceinline__ int32_t look_at_count(int32_t const* live_tokens) {
  uint32_t count = 0;
  load_if<32>(live_tokens != nullptr, reinterpret_cast<uint32_t const*>(live_tokens), count);
  return static_cast<int32_t>(count);
}

template <class Stored, class C>
__device__ __forceinline__ void sum_known_rows(Forecast<C> const& forecast, Finish<C> const& finish) {
  constexpr int K = C::kTopK;
  typename OwnWeights<C>::template Found<Stored> found;
  if constexpr (C::kEpilogue != Epilogue::kPlain) found = forecast.weights.template look<Stored>();
  InputRows<C, K> rows;
  CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    if constexpr (C::kShifts) {
      rows.load_if(1, k, forecast.rows[k], forecast.nears_end && k == K - 1);
    } else {
      rows.load(k, forecast.rows[k]);
    }
  }
  if constexpr (C::kShifts) {
    if (forecast.nears_end) rows.load_end(K - 1, forecast.rows[K - 1]);
  }
  Sum<C> sum;
  sum.load_shared(finish);
  SlotWeights<C, K> weights;
  if constexpr (C::kEpilogue != Epilogue::kPlain) weights = found.understood();
  add_rows(rows, weights, sum);
  sum.store(finish);
}

// False, with nothing written, where the guess was wrong.
template <class C>
__device__ __forceinline__ bool sum_guessed_rows(Forecast<C> const& forecast, Finish<C> const& finish) {
  constexpr int K = C::kTopK;
  using Lines = WarpLines<C>;
  auto const truth = forecast.slot.look();
  int32_t live = 0;
  if constexpr (C::kEpilogue == Epilogue::kRouted) live = look_at_count(forecast.live_tokens);
  float weight = forecast.slot.weight();
  InputRows<C, K> rows;
  CUTE_UNROLL
  for (int k = 0; k < K; ++k) rows.load_if(Lines::vote_of_slot(forecast.taking_part, k), k, forecast.rows[k]);
  Sum<C> sum;
  sum.load_shared(finish);
  if (!__all_sync(0xffffffffu, truth == forecast.found && live == forecast.live)) return false;
  weight = forecast.takes_part ? weight : -0.0f;  // see drop_skipped
  add_rows(rows, gather_weights<C>(weight), sum);
  sum.store(finish);
  return true;
}

// Sums and finishes a vector, if it can.
template <class C>
__device__ __forceinline__ bool sum_forecast_vector(Forecast<C> const& forecast, Finish<C> const& finish) {
  if (!forecast.made) return false;
  if constexpr (kGuesses<C>) {
    return sum_guessed_rows(forecast, finish);
  } else {
    if (C::kEpilogue != Epilogue::kPlain && forecast.weights.are_own()) {
      sum_known_rows<Element<C::kDType>>(forecast, finish);
    } else {
      sum_known_rows<float>(forecast, finish);
    }
    return true;
  }
}

}  // namespace moe_cute
