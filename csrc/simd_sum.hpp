// The running sum of a token's vector, as a CPU's core has it: rows are read where they are, a register at a time.
#pragma once

#include <type_traits>

#include "bfloat16_pairs.hpp"
#include "finish.hpp"
#include "input_rows.hpp"
#include "simd.hpp"

namespace moe_cute {

template <class C>
class Sum {
  using T = Element<C::kDType>;
  using A = Accumulator<T>;
  static constexpr bool kPairs = C::kDType == DType::kBFloat16 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
  using Wide = std::conditional_t<kPairs, BFloat16Pairs<C::kInstructionSet>, Simd<C::kInstructionSet, A>>;
  using Lanes = std::conditional_t<C::kVectorWidth % Wide::kWidth == 0, Wide, Lane<A>>;
  using Register = typename Lanes::Register;

 public:
  Sum() {
    for (Register& sum : sums_) Lanes::broadcast(0, sum);
  }

  // The weight of a plain kernel is unset.
  template <int K>
  void add(InputRows<C, K> const& rows, int k, A const& weight) {
    Register factor, term;
    if constexpr (C::kEpilogue != Epilogue::kPlain) Lanes::broadcast(weight, factor);
    for (int at = 0; at < kRegisters; ++at) {
      Lanes::load(rows.addresses[k] + at * Lanes::kWidth, term);
      if constexpr (C::kEpilogue == Epilogue::kPlain) {
        Lanes::add(term, sums_[at]);
      } else {
        Lanes::multiply_add(factor, term, sums_[at]);
      }
    }
  }

  void load_shared(Finish<C> const&) {}  // read where it is added

  void store(Finish<C> const& finish) {
    Register scale;
    Lanes::broadcast(finish.scale, scale);
    with_output_element(finish, [&](auto element) {
      using Stored = decltype(element);
      Stored const* const shared = static_cast<Stored const*>(finish.shared);
      Stored* const output = static_cast<Stored*>(finish.output);
      for (int at = 0; at < kRegisters; ++at) {
        int const first = at * Lanes::kWidth;
        if (C::kEpilogue != Epilogue::kPlain && shared) {
          Register result;
          Lanes::load(shared + first, result);
          Lanes::multiply_add(sums_[at], scale, result);
          Lanes::store(result, output + first, finish.streaming_store);
        } else {
          Lanes::multiply(scale, sums_[at]);
          Lanes::store(sums_[at], output + first, finish.streaming_store);
        }
      }
    });
  }

 private:
  static constexpr int kRegisters = C::kVectorWidth / Lanes::kWidth;

  Register sums_[kRegisters];
};

}  // namespace moe_cute
