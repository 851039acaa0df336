// Which rows a warp's slots read, guessed before the kernel that writes the indices has ended, and verified after.
#pragma once

#include "slots.hpp"

namespace moe_cute {

#if defined(__CUDACC__)
// A warp's vectors as lines of the L2 cache: each lane stands for one line in the row of one slot.
template <class C>
struct WarpLines {
  static constexpr int kLineBytes = 128;
  static constexpr int kWarpBytes = 32 * C::kVectorWidth * int(sizeof(Element<C::kDType>));
  static constexpr int kLines = kWarpBytes <= kLineBytes ? 1 : kWarpBytes / kLineBytes;
  static constexpr int kSlots = 32 / kLines;  // at once; also the lanes that read one line

  // What the first lane that reads this lane's line has.
  template <class Value>
  __device__ static Value of_line(Value value) {
    return __shfl_sync(0xffffffffu, value, line() * kSlots);
  }
  // What the lane has that stands for the line that this lane reads, in that slot's row.
  template <class Value>
  __device__ static Value of_slot(Value value, int slot) {
    return __shfl_sync(0xffffffffu, value, lane() / kSlots + slot * kLines);
  }
  __device__ static int line() { return lane() % kLines; }
  __device__ static int slot() { return lane() / kLines; }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
};

// To load guessed rows, and to look the indices up again meanwhile, spares the indices' latency. Only kernels of narrow
// vectors do: they are those of few tokens, where many would hide that latency.
template <class C>
inline constexpr bool kMayGuess = C::kEpilogue == Epilogue::kPermuted && C::kTopK != kAny &&
                                  C::kVectorWidth * sizeof(Element<C::kDType>) <= 8 && C::kTopK <= WarpLines<C>::kSlots;

// One slot's index.
template <class C>
__device__ __forceinline__ int64_t look_up_row(Operands<C> const& operands, int64_t token, int slot) {
  IndexMatrix const& matrix = operands.rows_of_slots;
  int64_t const at = token * matrix.token_stride + slot * matrix.topk_stride;
  return matrix.is_int64 ? load_now(static_cast<int64_t const*>(matrix.data) + at)
                         : load_now(static_cast<int32_t const*>(matrix.data) + at);
}

template <class C>
struct Guess {
  bool made = false;  // by the whole warp
  SlotRows<C, C::kTopK == kAny ? 1 : C::kTopK> rows;
  int64_t token;  // of the slot that this lane looked up
  int64_t found;  // the index there, or -1 where this lane stands for no slot

  // The true index, after the wait.
  __device__ int64_t look_again(Operands<C> const& operands) const {
    int const slot = WarpLines<C>::slot();
    return slot < C::kTopK ? look_up_row(operands, token, slot) : int64_t(-1);
  }

  // To be asked by the whole warp.
  __device__ bool holds(int64_t truth) const { return __all_sync(0xffffffffu, truth == found); }
};
#else
template <class C>
inline constexpr bool kMayGuess = false;

template <class C>
struct Guess {};
#endif

}  // namespace moe_cute
