#include "cuda_device.hpp"

#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(MOE_CUTE_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace moe_cute {

#if defined(MOE_CUTE_WITH_CUDA)
namespace {

void check(cudaError_t error, char const* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr which, int32_t device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

std::string version_text(int version) {
  return version == 0 ? "" : std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

Machine const& cuda_machine(int32_t device) {
  static std::mutex mutex;
  static std::vector<Machine> machines;
  thread_local Machine const* last = nullptr;
  thread_local int32_t last_device = -1;
  if (device == last_device) return *last;

  std::lock_guard<std::mutex> const lock(mutex);
  if (machines.empty()) {
    int count = 0;
    check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    machines.resize(count);  // once: the elements stay where they are
  }
  Machine& machine = machines.at(device);
  if (machine.multiprocessors == 0) {
    machine.backend = Backend::kCuda;
    machine.instruction_set = InstructionSet::kNone;
    machine.architecture = attribute(cudaDevAttrComputeCapabilityMajor, device) * 10 +
                           attribute(cudaDevAttrComputeCapabilityMinor, device);
    machine.l2_bytes = attribute(cudaDevAttrL2CacheSize, device);
    machine.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  }
  last = &machine;
  last_device = device;
  return machine;
}

CudaDeviceGuard::CudaDeviceGuard(int32_t device) {
  int current = 0;
  check(cudaGetDevice(&current), "cudaGetDevice");
  if (current != device) guard_.emplace(device);
}

char const* cuda_runtime_version() {
  static std::string const text = version_text(CUDART_VERSION);
  return text.c_str();
}

char const* cuda_driver_version() {
  static std::string const text = [] {
    int version = 0;
    if (cudaDriverGetVersion(&version) != cudaSuccess) version = 0;
    return version_text(version);
  }();
  return text.c_str();
}
#else
Machine const& cuda_machine(int32_t) {
  throw std::runtime_error(
      "input is on a CUDA device, but this build of moe_cute has no CUDA part; `python -m moe_cute doctor` tells what "
      "to install");
}
CudaDeviceGuard::CudaDeviceGuard(int32_t) {}
char const* cuda_runtime_version() { return ""; }
char const* cuda_driver_version() { return ""; }
#endif

}  // namespace moe_cute
