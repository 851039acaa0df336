// The rows of a configuration's input, as one thread has them.
#pragma once

#include <type_traits>

#include "rows.hpp"

namespace moe_cute {

#if defined(MOE_CUTE_GPU_BODY)
// Vectors of 2-byte elements that start anywhere: each lies in two aligned words of its own size, or in one, which are
// loaded whole and shifted into place. What they hold beside the vector is read, but not used: it shares an aligned
// word with the input, so it exists.
template <class T, int kVectorWidth, int kRows>
struct ShiftedRows {
  static_assert(sizeof(T) == 2 && kVectorWidth >= 4);
  static constexpr int kBytes = kVectorWidth * 2;
  static constexpr int kPairs = kVectorWidth / 2;  // of elements, in a word
  using Word = cute::uint_bit_t<kBytes * 8>;
  using Staged = decltype(cute::make_tensor<uint32_t>(cute::Shape<cute::Int<2 * kPairs>, cute::Int<kRows>>{}));
  Staged staged;              // (pairs, rows)
  uint32_t first_bit[kRows];  // of the vector in its first word; any bits above

  CUTE_HOST_DEVICE void load(int row, T const* address) { load_if(1, row, address); }
  // `otherwise` repeated where `wanted` is zero.
  CUTE_HOST_DEVICE void load_if(uint32_t wanted, int row, T const* address, uint64_t otherwise = 0) {
    auto words = cute::recast<Word>(staged(cute::_, row));  // (2)
    uintptr_t const start = reinterpret_cast<uintptr_t>(address);
    uint32_t const past_first = static_cast<uint32_t>(start) % kBytes;
    Word const* const first = reinterpret_cast<Word const*>(start - past_first);
    moe_cute::load_if<kBytes * 8>(wanted, first, words(0), otherwise);
    moe_cute::load_if<kBytes * 8>(wanted ? past_first : 0, first + 1, words(1), otherwise);
    first_bit[row] = static_cast<uint32_t>(start) * 8;
  }

  CUTE_HOST_DEVICE Accumulator<T> operator()(int element, int row) const {
    uint32_t pairs[2 * kPairs];
    CUTE_UNROLL
    for (int pair = 0; pair < 2 * kPairs; ++pair) pairs[pair] = staged(pair, row);
    CUTE_UNROLL
    for (int step = kPairs / 2; step > 0; step /= 2) {
      bool const skips = first_bit[row] & 32 * step;
      CUTE_UNROLL
      for (int pair = 0; pair + step < 2 * kPairs; ++pair) pairs[pair] = skips ? pairs[pair + step] : pairs[pair];
    }
    uint32_t const low = pairs[element / 2], high = pairs[element / 2 + 1];
#if defined(__CUDA_ARCH__)
    return one_of_pair<T>(__funnelshift_r(low, high, first_bit[row]), element % 2);
#else
    uint64_t const both = uint64_t(high) << 32 | low;
    return to_accumulator(T::bitcast(static_cast<uint16_t>(both >> (first_bit[row] % 32 + element % 2 * 16))));
#endif
  }
};

// K vectors of elements T, of a configuration's width, that start where its input's may.
template <class C, class T, int K>
using VectorRows = std::conditional_t<C::kShifts, ShiftedRows<T, C::kVectorWidth, K>,  //
                                      Rows<T, C::kVectorWidth, K, C::kLoadWidth>>;
#else
template <class C, class T, int K>
using VectorRows = Rows<T, C::kVectorWidth, K>;
#endif

template <class C, int K>
using InputRows = VectorRows<C, Element<C::kDType>, K>;

}  // namespace moe_cute
