// The two kernels behind the gradients of sum_reduce, as the launchers and the generated table see them.
#pragma once

#include <cstdint>

#include "launch.hpp"
#include "variant.hpp"

namespace moe_cute {

// products[s] = scale x <grad[token of s], input[row of s]>: the gradient of topk_weights.
struct SlotDotArguments {
  void const* grad = nullptr;            // [tokens, hidden], of the input's dtype or its accumulator's
  void const* input = nullptr;           // [rows / rows_per_token, rows_per_token, hidden]
  int64_t const* row_of_slot = nullptr;  // [slots]; a slot whose row does not exist has the product 0
  void* products = nullptr;              // [slots], of the accumulator's dtype
  int64_t slots = 0;
  int64_t topk = 1;
  int64_t rows = 0;
  int64_t rows_per_token = 1;
  int64_t hidden = 0;
  int64_t grad_token_stride = 0;
  int64_t grad_hidden_stride = 1;
  int64_t input_token_stride = 0;
  int64_t input_topk_stride = 0;
  int64_t input_hidden_stride = 1;
  bool grad_is_accumulator = false;
  double scale = 1.0;
};

// output[r] = scale x sum of weights[s] x grad[token of s], over the slots s that read row r, in the order of
// `slot_order`: the gradient of a permuted input. A row that no slot reads is zero.
struct RowSumArguments {
  void const* grad = nullptr;           // [tokens, hidden], of the output's dtype or its accumulator's
  void const* weights = nullptr;        // [tokens x topk], of the accumulator's dtype; null: ones
  int64_t const* slot_order = nullptr;  // [slots], by row
  int64_t const* first_slot = nullptr;  // [rows + 1]: row r has slot_order[first_slot[r]] up to the next row's first
  void* output = nullptr;               // [rows, hidden], contiguous
  int64_t topk = 1;
  int64_t rows = 0;
  int64_t hidden = 0;
  int64_t grad_token_stride = 0;
  int64_t grad_hidden_stride = 1;
  bool grad_is_accumulator = false;
  double scale = 1.0;
};

// The bodies, in slot_dot.hpp and row_sum.hpp.
template <DType kDType>
struct SlotDot;
template <DType kDType>
struct RowSum;

template <template <DType> class Kernel>
struct ArgumentsOf;
template <>
struct ArgumentsOf<SlotDot> {
  using type = SlotDotArguments;
};
template <>
struct ArgumentsOf<RowSum> {
  using type = RowSumArguments;
};

template <template <DType> class Kernel>
using GradientArguments = typename ArgumentsOf<Kernel>::type;

// Null on success, else what went wrong.
template <template <DType> class Kernel, DType kDType>
char const* launch_gradient_cuda(GradientArguments<Kernel> const& call, LaunchShape const& shape);

template <template <DType> class Kernel, DType kDType, InstructionSet kInstructionSet>
char const* launch_gradient_cpu(GradientArguments<Kernel> const& call, LaunchShape const& shape);

template <class Arguments>
struct GradientKernel {
  char const* name;
  Backend backend;
  InstructionSet instruction_set;                               // kNone on CUDA
  DType dtype;                                                  // of the input
  char const* (*launch)(Arguments const&, LaunchShape const&);  // null where this build has no such backend
};

// In generated/variants.cpp, the best instruction set first.
Table<GradientKernel<SlotDotArguments>> slot_dot_kernels();
Table<GradientKernel<RowSumArguments>> row_sum_kernels();

}  // namespace moe_cute
