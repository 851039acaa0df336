#include "machine.hpp"

namespace moe_cute {

Machine this_host() {
  Machine machine;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
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
