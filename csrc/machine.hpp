// The machine a call runs on: a CUDA device, or this host.
#pragma once

#include <cstdint>

#include "configuration.hpp"

namespace moe_cute {

struct Machine {
  Backend backend = Backend::kCpu;
  int architecture = 0;                                        // CUDA: 90 for sm_90
  int multiprocessors = 0;                                     // CUDA
  InstructionSet instruction_set = InstructionSet::kBaseline;  // CPU: the best it has
  int64_t l2_bytes = 0;                                        // CUDA
  int64_t last_level_cache_bytes = 0;                          // CPU
};

// Whether a kernel can be launched before the one before it has ended.
inline bool has_dependent_launch(Machine const& machine) {
  return machine.backend == Backend::kCuda && machine.architecture >= 90;
}

inline int l2_mib(Machine const& machine) { return static_cast<int>(machine.l2_bytes >> 20); }

Machine this_host();

}  // namespace moe_cute
