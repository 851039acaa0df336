// Programmatic dependent launch, as seen from inside a kernel; nothing before sm_90.
#pragma once

namespace moe_cute {

__device__ __forceinline__ void allow_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#elif defined(MOE_CUTE_EMULATED_WARP)
  emulated_wait();
#endif
}

}  // namespace moe_cute
