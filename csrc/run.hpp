// One call from its arguments to its launch: what both front ends, the operator and the direct binding, end in.
#pragma once

#include "call.hpp"
#include "select.hpp"

namespace moe_cute {

struct RunOptions {
  char const* variant = nullptr;              // a name that the caller insists on
  bool programmatic_dependent_launch = true;  // where it is possible
  int threads = 0;                            // a block size to use instead of the chosen one, if positive;
  int prefetch_kib = 0;                       // then this is used too (for measurements)
  void* stream = nullptr;                     // CUDA: the current stream of the input's device
  ParallelFor parallel_for = nullptr;
};

// Throws ArgumentError for what is refused, std::runtime_error for what fails; writes the output on return (CPU) or in
// the stream (CUDA).
void run(Call const& call, RunOptions const& options);

// The machine that a call's input is on.
Machine const& machine_of(TensorView const& input);

}  // namespace moe_cute
