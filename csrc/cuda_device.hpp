// What this project asks of the CUDA runtime outside its kernels. In a build without CUDA every question has the answer
// no.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <cstdint>
#include <optional>

#include "machine.hpp"

namespace moe_cute {

// Properties are asked for once for each device. Throws std::runtime_error where the driver refuses.
Machine const& cuda_machine(int32_t device);

// Makes a device current, and the one before current again: as torch does it, which does not wake a GPU for that on
// which nothing has run (a context takes half a gigabyte of its memory).
class CudaDeviceGuard {
 public:
  explicit CudaDeviceGuard(int32_t device);

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

// "13.0", of the runtime compiled in, and of the driver found; empty where there is none.
char const* cuda_runtime_version();
char const* cuda_driver_version();

}  // namespace moe_cute
