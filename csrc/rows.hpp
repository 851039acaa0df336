// Vectors between global memory and the arithmetic: the one place where the host and the device differ.
#pragma once

#include <cute/tensor_impl.hpp>

#include "memory.hpp"
#include "numeric.hpp"

namespace moe_cute {

#if defined(MOE_CUTE_GPU_BODY)
#define MOE_CUTE_UNROLL CUTE_UNROLL
#else
// A loop over a vector's elements must still be one where the compiler looks for loops to vectorise.
#define MOE_CUTE_UNROLL _Pragma("GCC unroll 1")
#endif

// kVectorWidth elements from `base` on. One element alone may be anywhere; those of a vector are neighbours.
template <int kVectorWidth, class T>
CUTE_HOST_DEVICE auto vector_at(T* base) {
  return cute::make_tensor(cute::make_gmem_ptr(base), cute::Layout<cute::Shape<cute::Int<kVectorWidth>>>{});  // (V)
}

// Copies a vector in accesses of `Operation`: several where the vector is longer than one access.
template <class Operation, class Source, class Destination>
CUTE_HOST_DEVICE void copy_vector(Source const& source, Destination&& destination) {
  using Vector = typename Operation::Vector;
  cute::Tensor sources = cute::recast<Vector const>(source);      // (accesses)
  cute::Tensor destinations = cute::recast<Vector>(destination);  // (accesses)
  CUTE_UNROLL
  for (int access = 0; access < cute::size(sources); ++access) {
    Operation::copy(sources(access), destinations(access));
  }
}

template <class T>
inline constexpr uint64_t kMinusZeros = sizeof(T) == 2   ? 0x8000'8000'8000'8000
                                        : sizeof(T) == 4 ? 0x8000'0000'8000'0000
                                                         : 0x8000'0000'0000'0000;

#if defined(MOE_CUTE_GPU_BODY)
// In registers: a load is on its way as soon as it is issued.
template <class T, int kVectorWidth, int kRows, int kLoadWidth = kVectorWidth>
struct Rows {
  static constexpr int kBits = kAccessBits<T, kLoadWidth>;
  decltype(cute::make_tensor<T>(cute::Shape<cute::Int<kVectorWidth>, cute::Int<kRows>>{})) staged;  // (V, rows)

  CUTE_HOST_DEVICE void load(int row, T const* address) {
    copy_vector<LoadVector<kBits>>(vector_at<kVectorWidth>(address), staged(cute::_, row));
  }
  // `otherwise` repeated where `wanted` is zero.
  CUTE_HOST_DEVICE void load_if(uint32_t wanted, int row, T const* address, uint64_t otherwise = 0) {
    using Bits = cute::uint_bit_t<kBits>;
    auto accesses = cute::recast<Bits>(staged(cute::_, row));
    CUTE_UNROLL
    for (int access = 0; access < cute::size(accesses); ++access) {
      moe_cute::load_if<kBits>(wanted, reinterpret_cast<Bits const*>(address) + access, accesses(access), otherwise);
    }
  }
  CUTE_HOST_DEVICE Accumulator<T> operator()(int element, int row) const {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == 2 && kLoadWidth % 2 == 0) {
      auto pairs = cute::recast<uint32_t const>(staged(cute::_, row));  // (V / 2)
      return one_of_pair<T>(pairs(element / 2), element % 2);
    }
#endif
    return to_accumulator(staged(element, row));
  }
};

// How many rows are on their way before the first add: all of them. Where topk is known only at run time, eight, since
// most models route to no more, and sixteen where they take few registers; but four where, with weights, eight would
// take so many that a multiprocessor held half the threads. On an H200, bfloat16 weighted by 16-byte vectors, us with
// eight and with four: [1041, 3, 4096] 13.9 and 11.1, [2285, 3, 5120] 38.0 and 27.9; over 620 random calls of 3 to 22
// slots the best launch of large ones took 0.84 to 0.95 times as long, that of small ones 1.01 to 1.03 times.
template <class C>
constexpr int rows_in_flight() {
  if (C::kTopK != kAny) return C::kTopK;
  constexpr int kBytes = C::kVectorWidth * int(sizeof(Element<C::kDType>));
  bool const is_fused = C::kEpilogue == Epilogue::kWeighted || C::kEpilogue == Epilogue::kPermuted;
  if (kBytes == 16 && is_fused) return 4;
  return kBytes <= 8 && C::kEpilogue < Epilogue::kPermuted ? 16 : 8;
}
template <class C>
inline constexpr int kRowsInFlight = rows_in_flight<C>();

inline constexpr bool kPredicatesLoads = true;
#else
// In place: a core reorders its own loads, and a copy on the stack would stall them.
template <class T, int kVectorWidth, int kRows>
struct Rows {
  T const* addresses[kRows];

  void load(int row, T const* address) { addresses[row] = address; }
  void load_if(bool, int row, T const* address) { addresses[row] = address; }  // of the others, nothing is read
  Accumulator<T> operator()(int element, int row) const { return to_accumulator(addresses[row][element]); }
};

template <class C>
inline constexpr int kRowsInFlight = 1;

inline constexpr bool kPredicatesLoads = false;
#endif

template <class Sum, class Rounded>
CUTE_HOST_DEVICE void round(Sum const& sum, Rounded& rounded) {
  using T = typename Rounded::value_type;
  constexpr int V = decltype(cute::size(sum))::value;
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 2 && V % 2 == 0) {
    auto pairs = cute::recast<uint32_t>(rounded);  // (V / 2)
    CUTE_UNROLL
    for (int pair = 0; pair < V / 2; ++pair) {
      pairs(pair) = from_accumulators<T>(sum(2 * pair), sum(2 * pair + 1));
    }
  } else
#endif
  {
    MOE_CUTE_UNROLL
    for (int v = 0; v < V; ++v) {
      rounded(v) = from_accumulator<T>(sum(v));
    }
  }
}

#if defined(MOE_CUTE_GPU_BODY)
// Stores halves that start anywhere: in words where those are aligned, else shifted into such words between two single
// elements. On an H200, bfloat16 weighted and shared [224, 3, 5502] took 6.3 us so and 7.3 element by element; of four
// halves the shifts cost as much as they save.
template <class Rounded, class T>
CUTE_HOST_DEVICE void store_halves(Rounded const& rounded, T* address) {
  static_assert(sizeof(T) == 2);
  auto const pairs = cute::recast<uint32_t const>(rounded);  // (V / 2)
  constexpr int kPairs = decltype(cute::size(pairs))::value;
  if (reinterpret_cast<uintptr_t>(address) % 4 == 0) {
    CUTE_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) reinterpret_cast<uint32_t*>(address)[pair] = pairs(pair);
  } else {
    auto* const words = reinterpret_cast<uint32_t*>(address + 1);
    address[0] = rounded(0);
    CUTE_UNROLL
    for (int pair = 0; pair + 1 < kPairs; ++pair) words[pair] = pairs(pair) >> 16 | pairs(pair + 1) << 16;
    address[2 * kPairs - 1] = rounded(2 * kPairs - 1);
  }
}
#endif

// Rounds a sum once, to the dtype of `address`, and stores it there: in one access where it is aligned to that.
template <Alignment kAlignment = Alignment::kVector, class Sum, class T>
CUTE_HOST_DEVICE void store_rounded(Sum const& sum, T* address) {
  using namespace cute;
  constexpr int V = decltype(size(sum))::value;
  Tensor destination = vector_at<V>(address);  // (V)
#if defined(MOE_CUTE_GPU_BODY)
  Tensor rounded = make_tensor<T>(Int<V>{});  // (V)
  round(sum, rounded);
  constexpr int kBits = kAccessBits<T, V>;
  if (kAlignment == Alignment::kVector || reinterpret_cast<uintptr_t>(address) % (kBits / 8) == 0) {
    copy_vector<StoreVector<kBits>>(rounded, destination);
  } else if constexpr (sizeof(T) == 2 && V == 8) {
    store_halves(rounded, address);
  } else {
    copy_vector<StoreVector<kAccessBits<T, 1>>>(rounded, destination);
  }
#else
  round(sum, destination);
#endif
}

}  // namespace moe_cute
