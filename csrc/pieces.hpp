// How a row is dealt out to the 32 lanes of a warp, in pieces of 16 bytes. On the CPU one thread is all lanes at once,
// with the same elements in the same partial sums: so a dot product has the same bits on both.
#pragma once

#include <type_traits>

#include "rows.hpp"

namespace moe_cute {

inline constexpr int kLanes = 32;

template <class T>
inline constexpr int kPieceOfLane = 16 / int(sizeof(T));  // elements

#if defined(MOE_CUTE_GPU_BODY)
inline constexpr int kLanesTogether = 1;
inline constexpr int kPiecesInFlight = 4;
inline constexpr int kVectorAlignment = 16;
#else
inline constexpr int kLanesTogether = kLanes;
inline constexpr int kPiecesInFlight = 1;
inline constexpr int kVectorAlignment = 1;
#endif

template <class T>
inline constexpr int kPiece = kPieceOfLane<T> * kLanesTogether;

// From a piece of a lane to its next.
template <class T>
inline constexpr int kPieceStride = kPieceOfLane<T> * kLanes;

// The lane that runs a body: the first element of its first piece.
template <class T>
CUTE_HOST_DEVICE int64_t first_element() {
#if defined(__CUDA_ARCH__)
  return int64_t(threadIdx.x % kLanes) * kPieceOfLane<T>;
#else
  return 0;
#endif
}

CUTE_HOST_DEVICE bool is_first_lane() {
#if defined(__CUDA_ARCH__)
  return threadIdx.x % kLanes == 0;
#else
  return true;
#endif
}

template <class T>
struct Row {
  T const* data;
  int64_t stride;
  bool in_vectors;  // elements side by side, and aligned where the device asks for it
};

template <class T>
CUTE_HOST_DEVICE bool is_aligned(T const* data) {
  return reinterpret_cast<uintptr_t>(data) % kVectorAlignment == 0;
}

// kCount pieces of a row, each kElements long; of the last, elements past the row's end are `past_end`.
template <class T, int kElements, int kCount>
struct Pieces {
  Rows<T, kElements, kCount> pieces;
#if !defined(MOE_CUTE_GPU_BODY)
  T padded[kElements];
#endif

  CUTE_HOST_DEVICE void load(Row<T> const& row, int64_t first, int64_t hidden, T past_end = T(0)) {
    if (kCount > 1 || (row.in_vectors && first + kElements <= hidden)) {
      CUTE_UNROLL
      for (int piece = 0; piece < kCount; ++piece) {
        pieces.load(piece, row.data + first + piece * (kElements / kLanesTogether * kLanes));
      }
    } else {
      load_elements(row, first, hidden, past_end);
    }
  }

  CUTE_HOST_DEVICE void load_elements(Row<T> const& row, int64_t first, int64_t hidden, T past_end) {
    MOE_CUTE_UNROLL
    for (int element = 0; element < kElements; ++element) {
      T const value = first + element < hidden ? row.data[(first + element) * row.stride] : past_end;
#if defined(MOE_CUTE_GPU_BODY)
      pieces.staged(element, 0) = value;
#else
      padded[element] = value;
#endif
    }
#if !defined(MOE_CUTE_GPU_BODY)
    pieces.load(0, padded);
#endif
  }

  CUTE_HOST_DEVICE auto operator()(int element, int piece) const { return pieces(element, piece); }
};

// Calls `f(count, first)` for the pieces of this lane, from element `first` on, `count` at a time: several while they
// are whole and `in_vectors`, then one by one.
template <class T, class F>
CUTE_HOST_DEVICE void for_each_piece(int64_t hidden, bool in_vectors, F const& f) {
  int64_t first = first_element<T>();
  if constexpr (kPiecesInFlight > 1) {
    constexpr int kReach = (kPiecesInFlight - 1) * kPieceStride<T> + kPiece<T>;
    for (; in_vectors && first + kReach <= hidden; first += kPiecesInFlight * kPieceStride<T>) {
      f(cute::Int<kPiecesInFlight>{}, first);
    }
  }
  for (; first < hidden; first += kPieceStride<T>) f(cute::Int<1>{}, first);
}

// Adds up kCount sums from `first` on, halving their number: the order is part of the result.
template <int kCount, class Sums>
CUTE_HOST_DEVICE auto halved(Sums& sums, int first) {
  CUTE_UNROLL
  for (int half = kCount / 2; half > 0; half /= 2) {
    CUTE_UNROLL
    for (int sum = 0; sum < half; ++sum) {
      sums[first + sum] += sums[first + sum + half];
    }
  }
  return sums[first];
}

// Of all lanes: of each lane's own partial sums first, then across the lanes.
template <class T, class Sums>
CUTE_HOST_DEVICE auto total(Sums& sums) {
  using A = Accumulator<T>;
  constexpr int kPartials = kPieceOfLane<T>;
#if defined(__CUDA_ARCH__)
  A sum = halved<kPartials>(sums, 0);
  CUTE_UNROLL
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffff, sum, distance);
  }
  return sum;
#else
  A lanes[kLanes] = {};
  for (int lane = 0; lane < kLanesTogether; ++lane) lanes[lane] = halved<kPartials>(sums, lane * kPartials);
  return A(halved<kLanes>(lanes, 0));
#endif
}

// Calls `f` with an element of grad's dtype.
template <class T, class F>
CUTE_HOST_DEVICE auto with_grad_element(bool grad_is_accumulator, F const& f) {
  if constexpr (std::is_same_v<T, Accumulator<T>>) {
    return f(T{});
  } else {
    return grad_is_accumulator ? f(Accumulator<T>{}) : f(T{});
  }
}

}  // namespace moe_cute
