// The running sum of a token's vector, as a GPU's thread has it.
#pragma once

#include <cute/tensor_impl.hpp>

#include "finish.hpp"
#include "input_rows.hpp"

namespace moe_cute {

template <class C>
class Sum {
  using T = Element<C::kDType>;
  using A = Accumulator<T>;

 public:
  CUTE_HOST_DEVICE Sum() {
    CUTE_UNROLL
    for (int v = 0; v < C::kVectorWidth; ++v) values_(v) = 0;
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      CUTE_UNROLL
      for (int v = 0; v < C::kVectorWidth; ++v) shared_(v) = A(-0.0);
    }
  }

  // The weight of a plain kernel is unset.
  template <class Staged>
  CUTE_HOST_DEVICE void add(Staged const& rows, int k, A const& weight) {
    CUTE_UNROLL
    for (int v = 0; v < C::kVectorWidth; ++v) {
      auto const term = rows(v, k);
      values_(v) = C::kEpilogue == Epilogue::kPlain ? values_(v) + term : fma_rn(weight, term, values_(v));
    }
  }

  // Has shared_output's vector on its way, where the call has one.
  CUTE_HOST_DEVICE void load_shared(Finish<C> const& finish) {
    if constexpr (C::kEpilogue != Epilogue::kPlain) {
      bool const has_shared = finish.shared != nullptr;
      // A branch over one load costs more than the load, but not more than the choice between three.
      if (!has_shared && C::kEpilogue == Epilogue::kRouted) return;
      with_output_element(finish, [&](auto element) {
        using Stored = decltype(element);
        constexpr int kLoadWidth = C::kAlignment == Alignment::kVector ? C::kVectorWidth : 1;
        Rows<Stored, C::kVectorWidth, 1, kLoadWidth> row;
        row.load_if(has_shared, 0, static_cast<Stored const*>(finish.shared), kMinusZeros<Stored>);
        CUTE_UNROLL
        for (int v = 0; v < C::kVectorWidth; ++v) shared_(v) = row(v, 0);
      });
    }
  }

  CUTE_HOST_DEVICE void store(Finish<C> const& finish) {
    CUTE_UNROLL
    for (int v = 0; v < C::kVectorWidth; ++v) {
      if constexpr (C::kEpilogue == Epilogue::kPlain) {
        values_(v) = values_(v) * finish.scale;
      } else {
        // Where there is no shared_output, -0 is added: it leaves any product as it is.
        values_(v) = fma_rn(values_(v), finish.scale, shared_(v));
      }
    }
    if (finish.output == nullptr) return;
    with_output_element(finish, [&](auto element) {
      store_rounded<C::kAlignment>(values_, static_cast<decltype(element)*>(finish.output));
    });
  }

 private:
  using Vector = decltype(cute::make_tensor<A>(cute::Int<C::kVectorWidth>{}));  // (V)

  Vector values_;
  Vector shared_;  // what is added last
};

}  // namespace moe_cute
