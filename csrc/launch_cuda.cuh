// The CUDA launcher.
#pragma once

#include <algorithm>

#include "grid_plan.cuh"
#include "launch_kernel.cuh"
#include "sum_reduce_kernel.cuh"

namespace moe_cute {

template <class C>
cudaError_t launch_part(Operands<C> const& operands, int64_t first_token, int64_t tokens, int64_t hidden,
                        LaunchShape const& shape) {
  GridPlan const plan = plan_grid(operands, first_token, tokens, hidden, shape);
  return launch_kernel(sum_reduce_kernel<C>, plan.blocks, plan.threads, shape, operands, plan.grid);
}

// The index of a vector within one launch is an int32, so a call beyond that is several launches.
template <class C>
char const* launch_cuda(SumReduceArguments const& call, LaunchShape const& shape) {
  constexpr int64_t kMaxVectors = (int64_t(1) << 30) - 1024;  // so that two grids' threads fit as well
  int64_t const hidden_part = std::min(call.hidden, kMaxVectors * C::kVectorWidth);
  int64_t const tokens_part = std::max<int64_t>(1, kMaxVectors / vectors_of_row<C>(hidden_part));
  for (int64_t hidden = 0; hidden < call.hidden; hidden += hidden_part) {
    for (int64_t token = 0; token < call.tokens; token += tokens_part) {
      cudaError_t const error =
          launch_part<C>(operands_of<C>(call, token, hidden), token, std::min(tokens_part, call.tokens - token),
                         std::min(hidden_part, call.hidden - hidden), shape);
      if (error != cudaSuccess) return cudaGetErrorString(error);
    }
  }
  return nullptr;
}

}  // namespace moe_cute
