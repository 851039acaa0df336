// One slot of a token, which one lane looks up: before the kernel before has ended, and again after.
#pragma once

#include "keep.cuh"
#include "number.cuh"
#include "slots.hpp"
#include "warp_lines.cuh"

namespace moe_cute {

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
    weight_ = Weight::of_slot(operands.weights, token, slot_);
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (looks_up_rows(operands)) row_ = Index::of_slot(operands.rows_of_slots, token, slot_);
    }
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      expert_ = Index::of_slot(operands.expert_ids, token, slot_);
      if (expert_.bytes == 0 || !operands.has_expert_map) return;
      int64_t const expert = expert_.value(expert_.look());
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

  // As in SlotRows; -1: the slot takes no part.
  __device__ int32_t row(Operands<C> const& operands, Found const& found) const {
    if (slot_ < 0) return -1;
    if constexpr (C::kEpilogue == Epilogue::kRouted) {
      if (expert_.bytes) {
        bool const is_local = operands.has_expert_map ? home_ != nullptr && static_cast<int32_t>(found.home) >= 0
                                                      : expert_.value(found.expert) >= 0;
        if (!is_local) return -1;
      }
    }
    if constexpr (C::kEpilogue >= Epilogue::kPermuted) {
      if (looks_up_rows(operands)) {
        int64_t const row = row_.value(found.row);
        return exists(operands, row) ? static_cast<int32_t>(row) : -1;
      }
    }
    return slot_;
  }

  __device__ void keep_weight(bool never) {
    keep(weight_.address, never);
    keep(weight_.bytes, never);
  }

  // To be asked for after the wait alone.
  __device__ float weight() const {
    uint32_t const bits = weight_.look();
    float weight = __uint_as_float(bits);
    if constexpr (sizeof(T) == 2) {
      float const narrow = to_accumulator(T::bitcast(static_cast<uint16_t>(bits)));
      weight = weight_.bytes == 2 ? narrow : weight;
    }
    return weight_.bytes ? weight : 1.0f;
  }

 private:
  using T = Element<C::kDType>;
  using Weight = Number<uint16_t, uint32_t>;

  int slot_ = -1;
  Weight weight_;
  Index row_;
  Index expert_;
  uint32_t const* home_ = nullptr;  // the expert's entry in the map
};

// Has each lane stand for a slot of the token in whose line it is. `made` is false in a warp of two tokens, where a
// line may hold the end of one and the start of the next. By the whole warp.
template <class C>
__device__ __forceinline__ LaneSlot<C> slot_of_lane(Operands<C> const& operands, Place<C> const& place, bool& made) {
  using Lines = WarpLines<C>;
  int64_t const token = Lines::of_line(static_cast<long long>(place.token));
  LaneSlot<C> const slot(operands, token, Lines::slot());
  made = __all_sync(0xffffffffu, place.token == Lines::of_slot(static_cast<long long>(token), 0));
  return slot;
}

}  // namespace moe_cute
