// The one body of every kernel, on the host and on the device: it sums one vector of every row of a token.
#pragma once

#include <cute/tensor_impl.hpp>

#include "numeric.hpp"
#include "rows.hpp"
#include "slot_weights.hpp"
#include "slots.hpp"

namespace moe_cute {

// What becomes of a sum.
template <class C>
struct Finish {
  Accumulator<Element<C::kDType>> scale;
  void const* shared;  // what is added to it then; null: nothing
  void* output;        // null: it is dropped
  DType dtype;         // of both
  bool streaming_store;
};

template <class C>
CUTE_HOST_DEVICE Finish<C> finish_of(Operands<C> const& operands, Place<C> const& place, bool writes = true) {
  Finish<C> finish{operands.scale, nullptr, nullptr, C::kDType, operands.streaming_store};
  if constexpr (C::kEpilogue == Epilogue::kRouted) finish.dtype = operands.output_dtype;
  int const bytes = element_bytes(finish.dtype);
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    if (operands.shared) {
      finish.shared = static_cast<char const*>(operands.shared) + offset_in_shared(operands, place) * bytes;
    }
  }
  if (writes) finish.output = static_cast<char*>(operands.output) + place.output * bytes;
  return finish;
}

// Calls `f` with an element of the dtype that the call stores, which is the input's but in routed kernels.
template <class C, class F>
CUTE_HOST_DEVICE void with_output_element(Finish<C> const& finish, F const& f) {
  if constexpr (C::kEpilogue != Epilogue::kRouted || C::kDType == DType::kFloat64) {
    f(Element<C::kDType>{});
  } else {
    switch (finish.dtype) {
      case DType::kFloat16: return f(cutlass::half_t{});
      case DType::kBFloat16: return f(cutlass::bfloat16_t{});
      default: return f(float{});
    }
  }
}

// The running sum of a token's vector, and what is added to it last.
template <class C>
struct Sum {
  using A = Accumulator<Element<C::kDType>>;
  decltype(cute::make_tensor<A>(cute::Int<C::kVectorWidth>{})) values;  // (V)
  decltype(cute::make_tensor<A>(cute::Int<C::kVectorWidth>{})) shared;  // (V)
  bool has_shared = false;

  CUTE_HOST_DEVICE Sum() {
    CUTE_UNROLL
    for (int v = 0; v < C::kVectorWidth; ++v) values(v) = 0;
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      CUTE_UNROLL
      for (int v = 0; v < C::kVectorWidth; ++v) shared(v) = A(-0.0);
    }
  }
};

// Has shared_output's vector on its way, where the call has one.
template <class C>
CUTE_HOST_DEVICE void load_shared(Finish<C> const& finish, Sum<C>& sum) {
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    sum.has_shared = finish.shared != nullptr;
    // A branch over one load costs more than the load, but not more than the choice between three.
    if (!sum.has_shared && (!kPredicatesLoads || C::kEpilogue == Epilogue::kRouted)) return;
    with_output_element(finish, [&](auto element) {
      using Stored = decltype(element);
      Rows<Stored, C::kVectorWidth, 1> row;
      row.load_if(sum.has_shared, 0, static_cast<Stored const*>(finish.shared), kMinusZeros<Stored>);
      MOE_CUTE_UNROLL
      for (int v = 0; v < C::kVectorWidth; ++v) {
        sum.shared(v) = row(v, 0);
      }
    });
  }
}

// Adds those of K rows that `adds` says, each by its weight.
template <int K, class C, class Adds>
CUTE_HOST_DEVICE void add_rows_if(Adds const& adds, Rows<Element<C::kDType>, C::kVectorWidth, K> const& rows,
                                  SlotWeights<C, K> const& weights, Sum<C>& sum) {
  MOE_CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    if (!adds(k)) continue;
    MOE_CUTE_UNROLL
    for (int v = 0; v < C::kVectorWidth; ++v) {
      auto const term = rows(v, k);
      sum.values(v) =
          C::kEpilogue == Epilogue::kPlain ? sum.values(v) + term : fma_rn(weights.values[k], term, sum.values(v));
    }
  }
}

template <int K, class C>
CUTE_HOST_DEVICE void add_rows(Rows<Element<C::kDType>, C::kVectorWidth, K> const& rows,
                               SlotWeights<C, K> const& weights, Sum<C>& sum) {
  add_rows_if([](int) { return true; }, rows, weights, sum);
}

// Whether the rows of skipped slots are jumped over, else added as zeros. With an eighth of the slots live, bfloat16
// [8192, 8, 2048] then took 40 us in place of 48 on an H200, by the routed kernel; where all loads are narrow, the jump
// also keeps ptxas from waiting for the first row before it asks for the weights (1.33 us in place of 1.74, [1, 8,
// 2048], unpermuted and without prefetch). A permuted kernel of 16-byte vectors has no registers to spare for it.
template <class C>
inline constexpr bool kJumps =
    kPredicatesLoads && (C::kEpilogue == Epilogue::kRouted ||
                         (C::kEpilogue == Epilogue::kPermuted && C::kVectorWidth * sizeof(Element<C::kDType>) <= 8));

// Adds K slots from `first` on, which read `slots`: all their rows on their way before the first is used.
template <int K, class C, class SlotRows>
CUTE_HOST_DEVICE void add_slot_rows(Operands<C> const& operands, Place<C> const& place, Finish<C> const& finish,
                                    SlotRows const& slots, int first, int topk, Sum<C>& sum) {
  using T = Element<C::kDType>;
  constexpr bool kMaySkip = C::kEpilogue >= Epilogue::kPermuted || !(C::kTopK == K || K == 1);

  Rows<T, C::kVectorWidth, K> rows;
  MOE_CUTE_UNROLL
  for (int k = 0; k < K; ++k) {
    T const* const address = in_row(operands, place.input, slots.row(k));
    if (kMaySkip) {
      rows.load_if(slots.live(operands, k), k, address);
    } else {
      rows.load(k, address);
    }
  }
  // While the rows are on their way: all that is looked up beside them.
  if (kPredicatesLoads && first == 0) load_shared(finish, sum);
  SlotWeights<C, K> weights;
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    weights = load_weights<C, K>(operands.weights, place.token, first, topk);
  }
  if constexpr (kJumps<C>) {
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

template <class C>
CUTE_HOST_DEVICE void store_sum(Finish<C> const& finish, Sum<C>& sum) {
  MOE_CUTE_UNROLL
  for (int v = 0; v < C::kVectorWidth; ++v) {
    if constexpr (kPredicatesLoads && C::kEpilogue != Epilogue::kPlain) {
      // Likewise predicated, the addition is none less: that of -0 leaves any product as it is.
      sum.values(v) = fma_rn(sum.values(v), finish.scale, sum.shared(v));
    } else {
      sum.values(v) =
          sum.has_shared ? fma_rn(sum.values(v), finish.scale, sum.shared(v)) : sum.values(v) * finish.scale;
    }
  }
  if (finish.output == nullptr) return;
  with_output_element(finish, [&](auto element) {
    store_rounded(sum.values, static_cast<decltype(element)*>(finish.output), finish.streaming_store);
  });
}

// Sums the vector at `place` slot by slot, wherever they are: more at a time would take registers from the others.
template <class C>
CUTE_HOST_DEVICE void sum_slot_by_slot(Operands<C> const& operands, Place<C> const& place, Finish<C> const& finish) {
  Sum<C> sum;
  CUTE_NO_UNROLL
  for (int slot = 0; slot < C::kTopK; ++slot) add_slots<1>(operands, place, finish, slot, C::kTopK, sum);
  store_sum(finish, sum);
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
    if (!kPredicatesLoads) load_shared(finish, sum);
    add_slots<K>(operands, place, finish, 0, K, sum);
  } else {
    int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
    if (!kPredicatesLoads || topk == 0) load_shared(finish, sum);
    add_chunks<K>(operands, place, finish, 0, topk, sum);
  }
  store_sum(finish, sum);
}

}  // namespace moe_cute
