// One slot of a token, which one lane looks up: before the kernel before has ended, and again after.
#pragma once

#include "slots.hpp"

namespace moe_cute {

// Where an int32 or an int64 stands, if anywhere: its size is in the address's two lowest bits, to save a register.
class Index {
 public:
  Index() = default;
  __device__ Index(void const* address, bool is_int64)
      : tagged_(reinterpret_cast<uint64_t>(address) | (is_int64 ? kWide : kNarrow)) {}

  __device__ explicit operator bool() const { return tagged_ != 0; }

  // Of two predicated loads one is carried out. A pair of loads of half the size, side by side, took 400 cycles where
  // one took 50.
  __device__ uint64_t look() const {
    uint64_t wide = 0;
    uint32_t narrow = 0;
    uint64_t const address = tagged_ & ~uint64_t(3);
    load_if<64>(tagged_ & kWide, reinterpret_cast<uint64_t const*>(address), wide);
    load_if<32>(tagged_ & kNarrow, reinterpret_cast<uint32_t const*>(address), narrow);
    return wide | narrow;
  }

  __device__ int64_t value_of(uint64_t bits) const {
    return tagged_ & kWide ? static_cast<int64_t>(bits) : static_cast<int32_t>(bits);
  }

 private:
  static constexpr uint32_t kNarrow = 1;
  static constexpr uint32_t kWide = 2;

  uint64_t tagged_ = 0;
};

// Likewise of a weight: a float32 or 16 bits.
struct WeightBits {
  void const* address = nullptr;
  int bytes = 0;  // of none: reads as zero

  __device__ uint32_t look() const {
    uint32_t wide = 0;
    uint16_t narrow = 0;
    load_if<32>(bytes == 4, static_cast<uint32_t const*>(address), wide);
    load_if<16>(bytes == 2, static_cast<uint16_t const*>(address), narrow);
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
    if (operands.weights.data) {
      int const bytes = slot_bytes(operands.weights, sizeof(Element<C::kDType>));
      int64_t const element = token * operands.weights.token_stride + slot_ * operands.weights.topk_stride;
      weight_ = {static_cast<char const*>(operands.weights.data) + element * bytes, bytes};
    }
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (operands.is_permuted) row_ = at(operands.rows_of_slots, token);
    }
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      expert_ = at(operands.expert_ids, token);
      if (!expert_ || !operands.has_expert_map) return;
      int64_t const expert = expert_.value_of(expert_.look());
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
      if (expert_) {
        bool const is_local = operands.has_expert_map ? home_ != nullptr && static_cast<int32_t>(found.home) >= 0
                                                      : expert_.value_of(found.expert) >= 0;
        if (!is_local) return -1;
      }
    }
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (operands.is_permuted) {
        int64_t const row = row_.value_of(found.row);
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
  __device__ Index at(IndexMatrix const& matrix, int64_t token) const {
    if (matrix.data == nullptr) return {};
    int64_t const element = token * matrix.token_stride + slot_ * matrix.topk_stride;
    return {static_cast<char const*>(matrix.data) + element * slot_bytes(matrix, 0), matrix.is_int64};
  }

  int slot_ = -1;
  WeightBits weight_;
  Index row_;
  Index expert_;
  uint32_t const* home_ = nullptr;  // the expert's entry in the map
};

}  // namespace moe_cute
