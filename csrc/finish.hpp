// What becomes of a sum: the scale, what is added last, and where it goes.
#pragma once

#include "numeric.hpp"
#include "slots.hpp"

namespace moe_cute {

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

}  // namespace moe_cute
