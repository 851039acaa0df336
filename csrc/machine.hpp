// The machine a call runs on: a CUDA device, or this host.
#pragma once

#include "configuration.hpp"

namespace moe_cute {

struct Machine {
  Backend backend = Backend::kCpu;
  int architecture = 0;                                        // CUDA: 90 for sm_90
  int multiprocessors = 0;                                     // CUDA
  InstructionSet instruction_set = InstructionSet::kBaseline;  // CPU: the best it has
};

Machine this_host();

}  // namespace moe_cute
