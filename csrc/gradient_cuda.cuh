// The CUDA launcher of the gradients' kernels: a warp for each slot or row.
#pragma once

#include <cuda_runtime.h>

#include "dependent_launch.cuh"
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
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((items + kWarpsPerBlock - 1) / kWarpsPerBlock));
  config.blockDim = dim3(kWarpsPerBlock * kLanes);
  config.stream = static_cast<cudaStream_t>(shape.stream);
  config.attrs = &attribute;
  config.numAttrs = shape.programmatic_dependent_launch ? 1 : 0;
  cudaError_t const error = cudaLaunchKernelEx(&config, gradient_kernel<Kernel<kDType>>, call, items);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace moe_cute
