// The gradient of a permuted input: each row gathers from the tokens that read it, on the host and on the device.
#pragma once

#include "gradient.hpp"
#include "pieces.hpp"

namespace moe_cute {

template <DType kDType>
struct RowSum {
  using Arguments = RowSumArguments;
  using T = Element<kDType>;
  using A = Accumulator<T>;

  static int64_t items(Arguments const& call) { return call.rows; }

  // One warp, or one CPU thread, has a row to itself.
  CUTE_HOST_DEVICE static void run(Arguments const& call, int64_t row) {
    T* const output = static_cast<T*>(call.output) + row * call.hidden;
    with_grad_element<T>(call.grad_is_accumulator, [&](auto element) {
      using G = decltype(element);
      Row<G> const grad{static_cast<G const*>(call.grad), call.grad_hidden_stride, in_vectors<G>(call, output)};
      for_each_piece<T>(call.hidden, grad.in_vectors,
                        [&](auto count, int64_t first) { sum_pieces<count()>(call, grad, row, first, output); });
    });
  }

  // Whether that holds for every token's row of grad, and for the row of the output.
  template <class G>
  CUTE_HOST_DEVICE static bool in_vectors(Arguments const& call, T const* output) {
    bool const every_token = call.grad_token_stride * int64_t(sizeof(G)) % kVectorAlignment == 0;
    return call.grad_hidden_stride == 1 && every_token && is_aligned(call.grad) && is_aligned(output);
  }

  template <int kCount, class G>
  CUTE_HOST_DEVICE static void sum_pieces(Arguments const& call, Row<G> grad, int64_t row, int64_t first, T* output) {
    A sums[kCount][kPiece<T>] = {};
    G const* const first_token = grad.data;
    int64_t const end = call.first_slot[row + 1];
    for (int64_t at = call.first_slot[row]; at < end; ++at) {
      int64_t const slot = call.slot_order[at];
      A const weight = call.weights ? static_cast<A const*>(call.weights)[slot] : A(1);
      grad.data = first_token + slot / call.topk * call.grad_token_stride;
      Pieces<G, kPiece<T>, kCount> grads;
      grads.load(grad, first, call.hidden);
      CUTE_UNROLL
      for (int piece = 0; piece < kCount; ++piece) {
        MOE_CUTE_UNROLL
        for (int element = 0; element < kPiece<T>; ++element) {
          sums[piece][element] = fma_rn(weight, A(grads(element, piece)), sums[piece][element]);
        }
      }
    }
    CUTE_UNROLL
    for (int piece = 0; piece < kCount; ++piece) {
      store(call, sums[piece], grad.in_vectors, output, first + piece * kPieceStride<T>);
    }
  }

  CUTE_HOST_DEVICE static void store(Arguments const& call, A const (&sums)[kPiece<T>], bool in_vectors, T* output,
                                     int64_t at) {
    A const scale = static_cast<A>(call.scale);
    if (in_vectors && at + kPiece<T> <= call.hidden) {
      cute::Tensor scaled = cute::make_tensor<A>(cute::Int<kPiece<T>>{});  // (V)
      MOE_CUTE_UNROLL
      for (int element = 0; element < kPiece<T>; ++element) {
        scaled(element) = sums[element] * scale;
      }
      store_rounded(scaled, output + at);
      return;
    }
    MOE_CUTE_UNROLL
    for (int element = 0; element < kPiece<T>; ++element) {
      if (at + element < call.hidden) output[at + element] = from_accumulator<T>(sums[element] * scale);
    }
  }
};

}  // namespace moe_cute
