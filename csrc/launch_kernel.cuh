// One launch of a kernel, which overlaps with the one before where the shape says so.
#pragma once

#include <cuda_runtime.h>

#include "launch.hpp"

namespace moe_cute {

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), int64_t blocks, int threads, LaunchShape const& shape,
                          Arguments const&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(shape.stream);
  config.attrs = &attribute;
  config.numAttrs = shape.programmatic_dependent_launch ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace moe_cute
