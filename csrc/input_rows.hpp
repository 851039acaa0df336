// The rows of a configuration's input, as one thread has them.
#pragma once

#include <type_traits>

#include "rows.hpp"

namespace moe_cute {

#if defined(MOE_CUTE_GPU_BODY)
// Vectors of 2-byte elements that start anywhere: each lies in two aligned words of its own size, or in one, which are
// loaded whole and shifted into place. What they hold beside the vector is read, but not used. Nothing is read past the
// input's end: of the last row, the last vector and the one before, which may end one element earlier, could reach
// there.
template <class T, int kVectorWidth, int kRows>
struct ShiftedRows {
  static_assert(sizeof(T) == 2 && kVectorWidth >= 4);
  static constexpr int kBytes = kVectorWidth * 2;
  static constexpr int kPairs = kVectorWidth / 2;  // of elements, in a word
  using Word = cute::uint_bit_t<kBytes * 8>;
  using Staged = decltype(cute::make_tensor<uint32_t>(cute::Shape<cute::Int<2 * kPairs>, cute::Int<kRows>>{}));
  Staged staged;              // (pairs, rows)
  uint32_t first_bit[kRows];  // of the vector in its first word; any bits above

  // Zeros where `wanted` is zero. Where the input's end is near, load_end is to follow.
  CUTE_HOST_DEVICE void load_if(uint32_t wanted, int row, T const* address, bool nears_end) {
    auto words = cute::recast<Word>(staged(cute::_, row));  // (2)
    uint32_t const past_first = bytes_past_word(address);
    moe_cute::load_if<kBytes * 8>(wanted, word_of(address), words(0));
    moe_cute::load_if<kBytes * 8>(wanted && !nears_end ? past_first : 0, word_of(address) + 1, words(1));
    first_bit[row] = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address)) * 8;
  }

  // What of the vector lies in its second word, by elements.
  CUTE_HOST_DEVICE void load_end(int row, T const* address) {
    uint32_t const count = bytes_past_word(address) / 2;
    auto const end = reinterpret_cast<uint16_t const*>(word_of(address) + 1);
    cute::Tensor elements = cute::make_tensor<uint16_t>(cute::Int<kVectorWidth>{});  // (V)
    CUTE_UNROLL
    for (int element = 0; element < kVectorWidth; ++element) {
      moe_cute::load_if<16>(uint32_t(element) < count, end + element, elements(element));
    }
    CUTE_UNROLL
    for (int each = 0; each < kRows; ++each) {
      if (each == row) cute::recast<Word>(staged(cute::_, each))(1) = cute::recast<Word>(elements)(0);
    }
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

 private:
  CUTE_HOST_DEVICE static uint32_t bytes_past_word(T const* address) {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address)) % kBytes;
  }
  // The first.
  CUTE_HOST_DEVICE static Word const* word_of(T const* address) {
    return reinterpret_cast<Word const*>(reinterpret_cast<uintptr_t>(address) - bytes_past_word(address));
  }
};

template <class C, int K>
using InputRows = std::conditional_t<C::kShifts, ShiftedRows<Element<C::kDType>, C::kVectorWidth, K>,
                                     Rows<Element<C::kDType>, C::kVectorWidth, K, C::kLoadWidth>>;
#else
template <class C, int K>
using InputRows = Rows<Element<C::kDType>, C::kVectorWidth, K>;
#endif

}  // namespace moe_cute
