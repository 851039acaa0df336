// A call of sum_reduce as a front end hands it over, and the gate that it passes.
#pragma once

#include "arguments.hpp"
#include "tensor_view.hpp"

namespace moe_cute {

struct Call {
  TensorView input;
  TensorView output;
  TensorView topk_weights;
  TensorView topk_ids;
  TensorView expert_map;
  TensorView inv_permuted_idx;
  TensorView shared_output;
  TensorView num_tokens;
  double routed_scaling_factor = 1.0;
};

// Throws ArgumentError, as `checked` does of it.
void expect_input_rank(TensorView const& input, bool permuted);

// Throws ArgumentError; on return everything that a launcher relies on holds.
SumReduceArguments checked(Call const& call);

}  // namespace moe_cute
