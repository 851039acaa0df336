// One slot of a token, which one lane looks up: before the kernel before has ended, and again after.
#pragma once

#include "slots.hpp"

namespace moe_cute {

// A number of one of two sizes, which one load reads: of two that are predicated, one is carried out. A pair of loads
// of half the size, side by side, took 400 cycles where one took 50.
template <class Narrow, class Wide>
struct Number {
  void const* address = nullptr;
  int bytes = 0;  // of none: reads as zero

  __device__ Wide look() const {
    Wide wide = 0;
    Narrow narrow = 0;
    load_if<8 * sizeof(Wide)>(bytes == sizeof(Wide), static_cast<Wide const*>(address), wide);
    load_if<8 * sizeof(Narrow)>(bytes == sizeof(Narrow), static_cast<Narrow const*>(address), narrow);
    return wide | narrow;
  }
};

template <class C>
class LaneSlot {
 public:
  // Where the slot's row is, as it stands in memory: what is looked at again is compared and not understood, so that no
  // branch comes between the loads.
  struct Found {
    uint64_t row = 0;
    uint64_t expert = 0;
    uint32_t home = 0;

    __device__ bool operator==(Found const& other) const {
      return row == other.row && expert == other.expert && home == other.home;
    }
  };

  LaneSlot() = default;

  // Of no slot, where `slot` is past the last.
  __device__ LaneSlot(Operands<C> const& operands, int64_t token, int slot) : slot_(slot < C::kTopK ? slot : -1) {
    if (slot_ < 0) return;
    weight_ = at<decltype(weight_)>(operands.weights, token);
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (operands.is_permuted) row_ = at<decltype(row_)>(operands.rows_of_slots, token);
    }
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      expert_ = at<decltype(expert_)>(operands.expert_ids, token);
      if (expert_.bytes == 0 || !operands.has_expert_map) return;
      int64_t const expert = index(expert_.look(), expert_.bytes);
      if (expert >= 0 && expert < operands.experts) {
        home_ = reinterpret_cast<uint32_t const*>(operands.expert_map + expert * operands.expert_map_stride);
      }
    }
  }

  __device__ Found look() const {
    Found found;
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) found.row = row_.look();
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      found.expert = expert_.look();
      load_if<32>(home_ != nullptr, home_, found.home);
    }
    return found;
  }

  // As in SlotRows; negative: the slot takes no part.
  __device__ int64_t row(Operands<C> const& operands, Found const& found) const {
    if (slot_ < 0) return -1;
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      if (expert_.bytes) {
        bool const is_local = operands.has_expert_map ? home_ != nullptr && static_cast<int32_t>(found.home) >= 0
                                                      : index(found.expert, expert_.bytes) >= 0;
        if (!is_local) return -1;
      }
    }
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (operands.is_permuted) {
        int64_t const row = index(found.row, row_.bytes);
        return row < operands.rows ? row : -1;
      }
    }
    return slot_;
  }

  // To be asked for after the wait alone.
  __device__ float weight() const {
    uint32_t const bits = weight_.look();
    float weight = __uint_as_float(bits);
    if constexpr (sizeof(Element<C::kDType>) == 2) {
      float const narrow = to_accumulator(Element<C::kDType>::bitcast(static_cast<uint16_t>(bits)));
      weight = weight_.bytes == 2 ? narrow : weight;
    }
    return weight_.bytes ? weight : 1.0f;
  }

 private:
  template <class Number, class Matrix>
  __device__ Number at(Matrix const& matrix, int64_t token) const {
    if (matrix.data == nullptr) return {};
    int const bytes = slot_bytes(matrix, sizeof(Element<C::kDType>));
    int64_t const element = token * matrix.token_stride + slot_ * matrix.topk_stride;
    return {static_cast<char const*>(matrix.data) + element * bytes, bytes};
  }

  __device__ static int64_t index(uint64_t bits, int bytes) {
    return bytes == 8 ? static_cast<int64_t>(bits) : static_cast<int32_t>(bits);
  }

  int slot_ = -1;
  Number<uint16_t, uint32_t> weight_;
  Number<uint32_t, uint64_t> row_;
  Number<uint32_t, uint64_t> expert_;
  uint32_t const* home_ = nullptr;  // the expert's entry in the map
};

}  // namespace moe_cute
