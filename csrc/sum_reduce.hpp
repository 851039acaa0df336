// The one body of every kernel, on the host and on the device: it sums one vector of every row of a token.
#pragma once

#include <cute/tensor.hpp>

#include "guess.hpp"
#include "numeric.hpp"
#include "rows.hpp"
#include "slots.hpp"

namespace moe_cute {

// Calls `f` with an element of the dtype that the call stores, which is the input's but in routed kernels.
template <class C, class F>
CUTE_HOST_DEVICE void with_output_element(Operands<C> const& operands, F const& f) {
  if constexpr (C::kEpilogue != Epilogue::kRouted || C::kDType == DType::kFloat64) {
    f(Element<C::kDType>{});
  } else {
    switch (operands.output_dtype) {
      case DType::kFloat16: return f(cutlass::half_t{});
      case DType::kBFloat16: return f(cutlass::bfloat16_t{});
      default: return f(float{});
    }
  }
}

// Whether a thread computes where its rows are before anything is read: in narrow vectors' kernels on a GPU, which are
// those of few tokens, that is off the path between the end of the kernel before and the first load. Constant strides
// leave nothing to compute, and looked-up rows are not known yet.
template <class C>
inline constexpr bool kAddressesEarly =
    kPredicatesLoads && !kIsPacked<C> && C::kTopK != kAny && C::kEpilogue < Epilogue::kPermuted &&
    C::kVectorWidth * sizeof(Element<C::kDType>) <= 8;

template <class C>
struct Addresses {
  Element<C::kDType> const* rows[kAddressesEarly<C> || kMayGuess<C> ? C::kTopK : 1];  // or of guessed rows
};

// The running sum of a token's vector, and what is added to it last.
template <class C>
struct Sum {
  using A = Accumulator<Element<C::kDType>>;
  decltype(cute::make_tensor<A>(cute::Int<C::kVectorWidth>{})) values;  // (V)
  decltype(cute::make_tensor<A>(cute::Int<C::kVectorWidth>{})) shared;  // (V)
  bool has_shared = false;
};

// Has shared_output's vector on its way, where the call has one.
template <class C>
CUTE_HOST_DEVICE void load_shared(Operands<C> const& operands, Place<C> const& place, Sum<C>& sum) {
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    sum.has_shared = operands.shared != nullptr;
    if (!kPredicatesLoads && !sum.has_shared) return;
    int64_t const at = offset_in_shared(operands, place);
    with_output_element(operands, [&](auto element) {
      using Stored = decltype(element);
      Rows<Stored, C::kVectorWidth, 1> row;
      row.load_if(sum.has_shared, 0, static_cast<Stored const*>(operands.shared) + at);
      MOE_CUTE_UNROLL
      for (int v = 0; v < C::kVectorWidth; ++v) {
        sum.shared(v) = to_accumulator(row(v, 0));
      }
    });
  }
}

// Adds K slots from `first` on, all their rows on their way before the first is used.
template <int K, class C>
CUTE_HOST_DEVICE void add_slots(Operands<C> const& operands, Place<C> const& place, int first, int topk,
                                Addresses<C> const& addresses, Guess<C> const& guess, Sum<C>& sum) {
  using T = Element<C::kDType>;
  using A = Accumulator<T>;
  constexpr int V = C::kVectorWidth;
  constexpr bool kMaySkip = C::kEpilogue >= Epilogue::kPermuted || !(C::kTopK == K || K == 1);

  SlotRows<C, K> slots;
  bool is_guess = false;
  if constexpr (kMayGuess<C>) {
    is_guess = guess.made;
    slots = guess.rows;
  }
  if (!is_guess) slots = SlotRows<C, K>(operands, place.token, first, topk);
  slots.drop_remote_experts(operands, place.token, first, topk);
  Rows<T, V, K> rows;
  auto const load_rows = [&](auto const& address_of) {
    MOE_CUTE_UNROLL
    for (int k = 0; k < K; ++k) {
      if (kMaySkip) {
        rows.load_if(slots.live(k), k, address_of(k));
      } else {
        rows.load(k, address_of(k));
      }
    }
  };
  auto const early = [&](int k) { return addresses.rows[k]; };
  auto const late = [&](int k) { return place.input + slots.offset(operands, k); };
  if (kAddressesEarly<C> || is_guess) {
    load_rows(early);
  } else {
    load_rows(late);
  }
  // While the rows are on their way: all that is looked up beside them.
  int64_t truth = 0;
  if constexpr (kMayGuess<C>) {
    if (is_guess) truth = guess.look_again(operands);
  }
  if (kPredicatesLoads && first == 0) load_shared(operands, place, sum);
  // Last, since their dtype is a branch, at whose end they are waited for.
  SlotWeights<C, K> const weights(operands, place.token, first, topk);
  if constexpr (kMayGuess<C>) {
    if (is_guess && !guess.holds(truth)) {
      slots = SlotRows<C, K>(operands, place.token, first, topk);
      load_rows(late);
    }
  }
  MOE_CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    // A skipped slot's row is zeros, and -0 x 0 leaves any sum as it is: +0 x 0 would make +0 of -0.
    A const weight = kMaySkip && !slots.live(k) ? A(-0.0) : weights.values[k];
    MOE_CUTE_UNROLL
    for (int v = 0; v < V; ++v) {
      A const term = to_accumulator(rows(v, k));
      sum.values(v) = C::kEpilogue == Epilogue::kPlain ? sum.values(v) + term : fma_rn(weight, term, sum.values(v));
    }
  }
}

// Sums the vector at `place`, and stores it if `writes`: a thread past the end repeats the last vector's loads, since
// behind a branch the compiler computes each row's address anew.
template <class C>
CUTE_HOST_DEVICE void sum_reduce_vector(Operands<C> const& operands, Place<C> const& place, bool writes = true,
                                        Addresses<C> const& addresses = {}, Guess<C> const& guess = {}) {
  constexpr int K = kRowsInFlight<C>;
  Sum<C> sum;
  cute::clear(sum.values);
  if constexpr (C::kTopK == K) {
    if (!kPredicatesLoads) load_shared(operands, place, sum);
    add_slots<K>(operands, place, 0, K, addresses, guess, sum);
  } else {
    int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
    if (!kPredicatesLoads || topk == 0) load_shared(operands, place, sum);
    int first = 0;
    // Half a chunk where that is enough: kernels of narrow vectors, with many threads, are bound by instructions.
    for (; topk - first > K / 2; first += K) add_slots<K>(operands, place, first, topk, addresses, guess, sum);
    if constexpr (K > 1) {
      if (first < topk) add_slots<K / 2>(operands, place, first, topk, addresses, guess, sum);
    }
  }
  MOE_CUTE_UNROLL
  for (int v = 0; v < C::kVectorWidth; ++v) {
    sum.values(v) =
        sum.has_shared ? fma_rn(sum.values(v), operands.scale, sum.shared(v)) : sum.values(v) * operands.scale;
  }
  if (!writes) return;
  with_output_element(operands, [&](auto element) {
    store_rounded(sum.values, static_cast<decltype(element)*>(operands.output) + place.output,
                  operands.streaming_store);
  });
}

}  // namespace moe_cute
