// The body of every kernel, on the host and on the device: it sums one vector of every row of a token. What is known
// beforehand of a token's rows is summed in forecast.cuh and live_slots.hpp, by the same Sum.
#pragma once

#include "slot_weights.hpp"
#include "slots.hpp"
#include "sum.hpp"

namespace moe_cute {

// Adds those of K rows that `adds` says, each by its weight.
template <int K, class C, class Adds>
CUTE_HOST_DEVICE void add_rows_if(Adds const& adds, InputRows<C, K> const& rows, SlotWeights<C, K> const& weights,
                                  Sum<C>& sum) {
  MOE_CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    if (adds(k)) sum.add(rows, k, weights.values[k]);
  }
}

template <int K, class C>
CUTE_HOST_DEVICE void add_rows(InputRows<C, K> const& rows, SlotWeights<C, K> const& weights, Sum<C>& sum) {
  add_rows_if([](int) { return true; }, rows, weights, sum);
}

// Whether the rows of skipped slots are jumped over, else added as zeros. With an eighth of the slots live, bfloat16
// [8192, 8, 2048] then took 40 us in place of 48 on an H200, by the routed kernel; where all loads are narrow, the jump
// also keeps ptxas from waiting for the first row before it asks for the weights (1.33 us in place of 1.74, [1, 8,
// 2048], unpermuted and without prefetch). A permuted kernel of 16-byte vectors has no registers to spare for it.
template <class C>
inline constexpr bool kJumps =
    !kPredicatesLoads || C::kEpilogue == Epilogue::kRouted ||
    (C::kEpilogue == Epilogue::kPermuted && C::kVectorWidth * sizeof(Element<C::kDType>) <= 8);

// Adds K slots from `first` on, which read `slots`: all their rows on their way before the first is used.
template <int K, class C, class SlotRows>
CUTE_HOST_DEVICE void add_slot_rows(Operands<C> const& operands, Place<C> const& place, Finish<C> const& finish,
                                    SlotRows const& slots, int first, int topk, Sum<C>& sum) {
  using T = Element<C::kDType>;
  constexpr bool kMaySkip = C::kEpilogue >= Epilogue::kPermuted || !(C::kTopK == K || K == 1);

  InputRows<C, K> rows;
  MOE_CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    T const* const address = in_row(operands, place.input, slots.row(k));
    if constexpr (C::kShifts) {
      rows.load_if(!kMaySkip || slots.live(operands, k), k, address, place.nears_end && first + k == topk - 1);
    } else if (kMaySkip) {
      rows.load_if(slots.live(operands, k), k, address);
    } else {
      rows.load(k, address);
    }
  }
  if constexpr (C::kShifts) {
    if (place.nears_end && topk - 1 < first + K) {
      rows.load_end(topk - 1 - first, in_row(operands, place.input, topk - 1));
    }
  }
  // While the rows are on their way: all that is looked up beside them.
  if (first == 0) sum.load_shared(finish);
  SlotWeights<C, K> weights;
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    weights = load_weights<C, K>(operands.weights, place.token, first, topk);
  }
  if constexpr (kMaySkip && kJumps<C>) {
    add_rows_if([&](int k) { return slots.live(operands, k); }, rows, weights, sum);
  } else {
    if constexpr (kMaySkip && C::kEpilogue != Epilogue::kPlain) {
      weights.drop_skipped([&](int k) { return slots.live(operands, k); });
    }
    add_rows(rows, weights, sum);
  }
}

template <int K, class C>
CUTE_HOST_DEVICE void add_slots(Operands<C> const& operands, Place<C> const& place, Finish<C> const& finish, int first,
                                int topk, Sum<C>& sum) {
  SlotRows<C, K> slots(operands, place.token, first, topk);
  slots.drop_remote_experts(operands, place.token, first, topk);
  add_slot_rows<K>(operands, place, finish, slots, first, topk, sum);
}

// Adds the slots from `first` on, K of them at a time, and what remains in halves of that where they are enough:
// kernels of narrow vectors, with many threads, are bound by instructions.
template <int K, class C>
CUTE_HOST_DEVICE void add_chunks(Operands<C> const& operands, Place<C> const& place, Finish<C> const& finish, int first,
                                 int topk, Sum<C>& sum) {
  constexpr bool kHalves = K > 4;
  for (; topk - first > (kHalves ? K / 2 : 0); first += K) add_slots<K>(operands, place, finish, first, topk, sum);
  if constexpr (kHalves) add_chunks<K / 2>(operands, place, finish, first, topk, sum);
}

// Sums the vector at `place` slot by slot, wherever they are: more at a time would take registers from the others.
template <class C>
CUTE_HOST_DEVICE void sum_slot_by_slot(Operands<C> const& operands, Place<C> const& place, Finish<C> const& finish) {
  Sum<C> sum;
  CUTE_NO_UNROLL
  for (int slot = 0; slot < C::kTopK; ++slot) add_slots<1>(operands, place, finish, slot, C::kTopK, sum);
  sum.store(finish);
}

// Sums the vector at `place`, and finishes it. A thread past the end repeats the last vector's loads, to drop the sum:
// behind a branch the compiler computes each row's address anew.
template <class C>
CUTE_HOST_DEVICE void sum_reduce_vector(Operands<C> const& operands, Place<C> const& place, Finish<C> const& finish) {
  constexpr int K = kRowsInFlight<C>;
  if (!has_wide_slots<K>(operands)) {
    sum_slot_by_slot(operands, place, finish);
    return;
  }
  Sum<C> sum;
  if constexpr (C::kTopK == K) {
    add_slots<K>(operands, place, finish, 0, K, sum);
  } else {
    int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
    if (topk == 0) sum.load_shared(finish);
    add_chunks<K>(operands, place, finish, 0, topk, sum);
  }
  sum.store(finish);
}

}  // namespace moe_cute
