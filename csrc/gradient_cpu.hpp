// The CPU launcher of the gradients' kernels: slots or rows, one after the other.
#pragma once

#include <algorithm>

#include "instruction_set_body.hpp"
#include "row_sum.hpp"
#include "slot_dot.hpp"

namespace moe_cute {
namespace cpu {

template <class Kernel>
struct GradientTask {
  typename Kernel::Arguments call;

  __attribute__((always_inline)) static inline void run(int64_t begin, int64_t end, GradientTask const& task) {
    for (int64_t item = begin; item < end; ++item) Kernel::run(task.call, item);
  }
};

}  // namespace cpu

template <template <DType> class Kernel, DType kDType, InstructionSet kInstructionSet>
char const* launch_gradient_cpu(GradientArguments<Kernel> const& call, LaunchShape const& shape) {
  using Task = cpu::GradientTask<Kernel<kDType>>;
  int64_t const grain = std::max<int64_t>(1, cpu::kElementsPerTask / std::max<int64_t>(1, call.hidden));
  Task task{call};
  shape.parallel_for(Kernel<kDType>::items(call), grain, cpu::run_task<Task, kInstructionSet>, &task);
  return nullptr;
}

}  // namespace moe_cute
