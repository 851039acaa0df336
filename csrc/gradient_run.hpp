// The gradients' kernels from their arguments to their launch. Index tensors are int64 and contiguous, weights are of
// the accumulator's dtype: moe_cute/_backward.py sees to that. Shapes, dtypes and devices are checked; that slot_order
// and first_slot hold what they say is not, for that would take a look at the device's memory.
#pragma once

#include "gradient.hpp"
#include "run.hpp"

namespace moe_cute {

struct SlotDotCall {
  TensorView grad;         // [tokens, hidden]
  TensorView input;        // [tokens, topk, hidden] or [rows, hidden]
  TensorView row_of_slot;  // [tokens, topk]; for a three-dimensional input, rows are counted over tokens and topk
  double scale;
  TensorView products;  // [tokens, topk]: written
};

struct RowSumCall {
  TensorView grad;          // [tokens, hidden]
  TensorView row_of_slot;   // [tokens, topk]
  TensorView slot_order;    // [tokens x topk]
  TensorView first_slot;    // [rows + 1]
  TensorView topk_weights;  // [tokens, topk], or not given
  double scale;
  TensorView output;  // [rows, hidden]: written
};

// Throw ArgumentError for what is refused.
SlotDotArguments checked(SlotDotCall const& call);
RowSumArguments checked(RowSumCall const& call);

// Throw what the checks throw, and std::runtime_error for what fails.
void run(SlotDotCall const& call, RunOptions const& options);
void run(RowSumCall const& call, RunOptions const& options);

}  // namespace moe_cute
