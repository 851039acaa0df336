// The slots of a token that take part, for the CPU: looked up once for a whole row. A GPU's threads look them up for
// each vector; here bfloat16 [256, 8, 2048], permuted and weighted, took 1965 us by that, in place of 100 (two cores of
// an AMD EPYC with AVX-512, together with simd.hpp).
#pragma once

#include <cstdint>

#include "cpu_prefetch.hpp"
#include "slot_weights.hpp"
#include "sum.hpp"

namespace moe_cute {

template <class C>
class LiveSlots {
  using T = Element<C::kDType>;
  using A = Accumulator<T>;

 public:
  static constexpr int kMost = 64;  // of a token's slots; more are looked up vector by vector

  LiveSlots(Operands<C> const& operands, int64_t token) {
    for (int slot = 0; slot < operands.topk; ++slot) {
      SlotRows<C, 1> row(operands, token, slot, operands.topk);
      row.drop_remote_experts(operands, token, slot, operands.topk);
      if (!row.live(operands, 0)) continue;
      offsets_[count_] = row.row(0) * row_stride(operands);
      weights_[count_] = load_weights<C, 1>(operands.weights, token, slot, operands.topk).values[0];
      ++count_;
    }
  }

  // At `address` in the row that the token's first slot would have.
  void prefetch_rows(uintptr_t address) const {
    for (int slot = 0; slot < count_; ++slot) {
      uintptr_t line = address + offsets_[slot] * int64_t(sizeof(T));
      cpu::hide(line);
      cpu::prefetch_line(line);
    }
  }

  // Sums the vector at `place`; `D` is a configuration of the same dtype.
  template <class D>
  void sum(Place<D> const& place, Finish<D> const& finish) const {
    Sum<D> sum;
    for (int slot = 0; slot < count_; ++slot) {
      InputRows<D, 1> row;
      row.load(0, place.input + offsets_[slot]);
      sum.add(row, 0, weights_[slot]);
    }
    sum.store(finish);
  }

 private:
  int count_ = 0;
  int64_t offsets_[kMost];  // elements, from the row that the token's first slot would have
  A weights_[kMost];
};

}  // namespace moe_cute
