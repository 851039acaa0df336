// What this project asks of the CUDA runtime outside its kernels. In a build without CUDA every question has the answer
// no.
#pragma once

#include <cstdint>

#include "select.hpp"

namespace moe_cute {

// Properties are asked for once for each device. Throws std::runtime_error where the driver refuses.
Machine const& cuda_machine(int32_t device);

// Makes a device current, and the one before current again.
class CudaDeviceGuard {
 public:
  explicit CudaDeviceGuard(int32_t device);
  ~CudaDeviceGuard();
  CudaDeviceGuard(CudaDeviceGuard const&) = delete;
  CudaDeviceGuard& operator=(CudaDeviceGuard const&) = delete;

 private:
  int32_t previous_ = -1;
};

// "13.0", of the runtime compiled in, and of the driver found; empty where there is none.
char const* cuda_runtime_version();
char const* cuda_driver_version();

}  // namespace moe_cute
