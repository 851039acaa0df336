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

// The ranks that the output's shape follows from. Throws ArgumentError; `checked` asks for them too.
void expect_ranks(TensorView const& input, TensorView const& inv_permuted_idx);

// Throws ArgumentError; on return everything that a launcher relies on holds.
SumReduceArguments checked(Call const& call);

}  // namespace moe_cute
