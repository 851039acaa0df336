// The gradient of topk_weights: one dot product for each slot, on the host and on the device.
#pragma once

#include "gradient.hpp"
#include "pieces.hpp"

namespace moe_cute {

template <DType kDType>
struct SlotDot {
  using Arguments = SlotDotArguments;
  using T = Element<kDType>;
  using A = Accumulator<T>;

  static int64_t items(Arguments const& call) { return call.slots; }

  // One warp, or one CPU thread, has a slot to itself.
  CUTE_HOST_DEVICE static void run(Arguments const& call, int64_t slot) {
    int64_t const row = call.row_of_slot[slot];
    A product = 0;
    if (row >= 0 && row < call.rows) {
      T const* const data = static_cast<T const*>(call.input) + row / call.rows_per_token * call.input_token_stride +
                            row % call.rows_per_token * call.input_topk_stride;
      Row<T> const values{data, call.input_hidden_stride, call.input_hidden_stride == 1 && is_aligned(data)};
      int64_t const token_offset = slot / call.topk * call.grad_token_stride;
      product = with_grad_element<T>(call.grad_is_accumulator, [&](auto element) {
        using G = decltype(element);
        G const* const grad = static_cast<G const*>(call.grad) + token_offset;
        return dot(Row<G>{grad, call.grad_hidden_stride, call.grad_hidden_stride == 1 && is_aligned(grad)}, values,
                   call.hidden);
      });
      product *= static_cast<A>(call.scale);
    }
    if (is_first_lane()) static_cast<A*>(call.products)[slot] = product;
  }

  template <class G>
  CUTE_HOST_DEVICE static A dot(Row<G> const& grad, Row<T> const& values, int64_t hidden) {
    A sums[kPiece<T>] = {};
    for_each_piece<T>(hidden, grad.in_vectors && values.in_vectors, [&](auto count, int64_t first) {
      Pieces<T, kPiece<T>, count()> factors;
      Pieces<G, kPiece<T>, count()> grads;
      factors.load(values, first, hidden);
      grads.load(grad, first, hidden, G(-0.0f));  // -0 x 0 leaves any sum as it is, also one of -0
      CUTE_UNROLL
      for (int piece = 0; piece < count(); ++piece) {
        MOE_CUTE_UNROLL
        for (int element = 0; element < kPiece<T>; ++element) {
          sums[element] = fma_rn(A(grads(element, piece)), A(factors(element, piece)), sums[element]);
        }
      }
    });
    return total<T>(sums);
  }
};

}  // namespace moe_cute
