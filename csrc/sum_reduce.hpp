// The one body of every kernel, on the host and on the device: it sums one vector of every row of a token.
#pragma once

#include <cute/tensor.hpp>

#include "numeric.hpp"
#include "rows.hpp"
#include "slots.hpp"

namespace moe_cute {

// Calls `f` with an element of the dtype that the call stores: the plain and weighted kernels' is their input's.
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

// Sums the vector at `place`, and stores it if `writes`: a thread past the end repeats the last vector's loads, since
// behind a branch the compiler computes each row's address anew.
template <class C>
CUTE_HOST_DEVICE void sum_reduce_vector(Operands<C> const& operands, Place<C> const& place, bool writes = true) {
  using namespace cute;
  using T = Element<C::kDType>;
  using A = Accumulator<T>;
  constexpr int V = C::kVectorWidth;
  constexpr int K = kRowsInFlight<C>;
  constexpr bool kWholeChunks = C::kTopK == K || K == 1;
  constexpr bool kMaySkip = C::kEpilogue >= Epilogue::kPermuted || !kWholeChunks;

  Tensor shared = make_tensor<A>(Int<V>{});  // (V), on its way with the first rows
  bool has_shared = false;
  if constexpr (C::kEpilogue != Epilogue::kPlain) {
    has_shared = operands.shared != nullptr;
    if (has_shared) {
      int64_t const at = place.token * operands.shared_token_stride + place.hidden * operands.shared_hidden_stride;
      with_output_element(operands, [&](auto element) {
        using Stored = decltype(element);
        Rows<Stored, V, 1> row;
        row.load(0, static_cast<Stored const*>(operands.shared) + at);
        MOE_CUTE_UNROLL
        for (int v = 0; v < V; ++v) {
          shared(v) = to_accumulator(row(v, 0));
        }
      });
    }
  }

  Tensor sum = make_tensor<A>(Int<V>{});  // (V)
  clear(sum);
  int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
  for (int first = 0; first < topk; first += K) {
    SlotRows<C, K> const slots(operands, place.token, first, topk);
    Rows<T, V, K> rows;
    MOE_CUTE_UNROLL
    for (int k = 0; k < K; ++k) {
      T const* const row = place.input + slots.offsets[k];
      if (kMaySkip) {
        rows.load_if(slots.live[k], k, row);
      } else {
        rows.load(k, row);
      }
    }
    SlotWeights<C, K> const weights(operands, place.token, first, topk);  // while the rows are on their way
    MOE_CUTE_UNROLL
    for (int k = 0; k < K; ++k) {
      A const weight = kMaySkip && !slots.live[k] ? A(0) : weights.values[k];
      MOE_CUTE_UNROLL
      for (int v = 0; v < V; ++v) {
        A const term = to_accumulator(rows(v, k));
        A const added = C::kEpilogue == Epilogue::kPlain ? sum(v) + term : fma_rn(weight, term, sum(v));
        sum(v) =
            kWholeChunks || first + k < topk ? added : sum(v);  // a skipped slot adds zero, one past the last nothing
      }
    }
  }
  MOE_CUTE_UNROLL
  for (int v = 0; v < V; ++v) {
    sum(v) = has_shared ? fma_rn(sum(v), operands.scale, shared(v)) : sum(v) * operands.scale;
  }
  if (!writes) return;
  with_output_element(operands, [&](auto element) {
    store_rounded(sum, static_cast<decltype(element)*>(operands.output) + place.output, operands.streaming_store);
  });
}

}  // namespace moe_cute
