// The CUDA launcher of the gradients' kernels: a warp for each slot or row.
#pragma once

#include "dependent_launch.cuh"
#include "launch_kernel.cuh"
#include "row_sum.hpp"
#include "slot_dot.hpp"

namespace moe_cute {

inline constexpr int kWarpsPerBlock = 8;

template <class Kernel>
__global__ void __launch_bounds__(kWarpsPerBlock* kLanes)
    gradient_kernel(__grid_constant__ typename Kernel::Arguments const call, int64_t items) {
  allow_next_kernel();
  int64_t const item = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kLanes;
  wait_for_previous_kernel();
  if (item < items) Kernel::run(call, item);
}

template <template <DType> class Kernel, DType kDType>
char const* launch_gradient_cuda(GradientArguments<Kernel> const& call, LaunchShape const& shape) {
  int64_t const items = Kernel<kDType>::items(call);
  int64_t const blocks = (items + kWarpsPerBlock - 1) / kWarpsPerBlock;
  cudaError_t const error =
      launch_kernel(gradient_kernel<Kernel<kDType>>, blocks, kWarpsPerBlock * kLanes, shape, call, items);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace moe_cute
