#include "machine.hpp"

#include "host_cache.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace moe_cute {
namespace {

#if defined(__x86_64__)
// Clang's __builtin_cpu_supports does not know it.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

}  // namespace

Machine this_host() {
  Machine machine;
  machine.last_level_cache_bytes = last_level_cache_bytes();
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    machine.instruction_set = InstructionSet::kAvx2;
  }
  if (machine.instruction_set == InstructionSet::kAvx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    machine.instruction_set = InstructionSet::kAvx512;
  }
#endif
  return machine;
}

}  // namespace moe_cute
