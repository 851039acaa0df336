// How many threads of a kernel a multiprocessor shall hold, told to ptxas by the launch bounds.
#pragma once

#include "forecast.cuh"
#include "lane_rows.cuh"

namespace moe_cute {

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
  int const of_load = std::max(1, C::kLoadWidth * int(sizeof(Element<C::kDType>)) / 4);
  int const rows = kRows * (C::kShifts ? 2 * of_load + 1 : C::kVectorWidth / C::kLoadWidth * of_load);
  int const sums_and_weights = (kRows + C::kVectorWidth) * kAccumulatorBytes / 4;
  bool const has_wide_indices = C::kEpilogue == Epilogue::kRouted && !kAsksLanes<C>;
  int const indices = kRows * (has_wide_indices || kForecasts<C> ? 2 : 1);
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

}  // namespace moe_cute
