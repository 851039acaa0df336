// Launches by rules of a few constants, where no ladder was measured or none fits.
#pragma once

#include <optional>

#include "preference.hpp"

namespace moe_cute {

// Whether kernels are made for this topk; else they loop over it.
bool has_kernel_for_topk(int64_t topk);

// Of so many vectors, whether blocks of so many threads are more than four to each multiprocessor.
bool has_many_blocks(int64_t vectors, int threads, Machine const& machine);

// Without measurements.
Preference heuristic(SumReduceArguments const& call, Machine const& machine);

// Of plain kernels that loop over topk, which have more rows on their way where vectors are narrow.
void prefer_more_rows(SumReduceArguments const& call, Machine const& machine, Preference& preference);

// Of fused kernels with another number of rows than those that ladders were measured on; none where these fit.
std::optional<Preference> fused_preference(SumReduceArguments const& call, Machine const& machine);

// Where how many tokens are live stands on the device.
Preference live_tokens_preference(SumReduceArguments const& call);

// Of vectors that may start anywhere.
Preference unaligned_preference(SumReduceArguments const& call, Machine const& machine);

}  // namespace moe_cute
