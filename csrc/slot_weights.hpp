// What the rows of a token's slots are multiplied by.
#pragma once

#include "slots.hpp"

namespace moe_cute {

template <class C, int K>
struct SlotWeights {
  using T = Element<C::kDType>;
  using A = Accumulator<T>;

  A values[K];  // unset in a plain kernel

  // A skipped slot's row is zeros, and -0 x 0 leaves any sum as it is: +0 x 0 would make +0 of -0.
  template <class IsLive>
  CUTE_HOST_DEVICE void drop_skipped(IsLive const& is_live) {
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) values[k] = is_live(k) ? values[k] : A(-0.0);
  }
};

// Of K slots, from `first` on; ones where the call has none. To be called when all rows are on their way: the choice
// between the weights' dtypes is a branch, before which ptxas issues the loads that come before it. Where each dtype's
// load had a predicate instead, it had the weights waited for between the rows' loads: bfloat16 [1024, 8, 2048],
// unpermuted and weighted, took 10.3 us on an H200, in place of 9.6.
template <class C, int K>
CUTE_HOST_DEVICE SlotWeights<C, K> load_weights(SlotMatrix const& matrix, int64_t token, int first, int topk) {
  SlotWeights<C, K> weights;
  auto const load = [&](auto zero) {
    alignas(16) decltype(zero) stored[K];
    load_slots<kWideSlots<C, K>>(matrix, token, first, topk, stored);
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) weights.values[k] = to_accumulator(stored[k]);
  };
  if (matrix.bytes == 0) {
    CUTE_UNROLL
    for (int k = 0; k < K; ++k) weights.values[k] = 1;
  } else if (matrix.bytes == sizeof(float)) {
    load(float{});
  } else {
    load(Element<C::kDType>{});
  }
  return weights;
}

}  // namespace moe_cute
