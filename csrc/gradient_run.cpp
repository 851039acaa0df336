#include "gradient_run.hpp"

#include <stdexcept>
#include <string>

#include "cuda_device.hpp"
#include "launch_site.hpp"

namespace moe_cute {
namespace {

template <class Arguments>
void launch(Table<GradientKernel<Arguments>> kernels, Arguments const& arguments, DType dtype, TensorView const& grad,
            RunOptions const& options) {
  Machine const& machine = machine_of(grad);
  for (GradientKernel<Arguments> const& kernel : kernels) {
    if (kernel.backend != machine.backend || kernel.dtype != dtype || kernel.launch == nullptr) continue;
    if (kernel.instruction_set > machine.instruction_set) continue;
    LaunchShape shape;
    shape.parallel_for = options.parallel_for;
    shape.stream = options.stream;
    char const* error = nullptr;
    if (machine.backend == Backend::kCuda) {
      CudaDeviceGuard const guard(grad.device_index);
      LaunchSite const site(options.stream, machine, options.programmatic_dependent_launch);
      shape.programmatic_dependent_launch = site.by_attribute();
      site.connect();
      error = kernel.launch(arguments, shape);
    } else {
      error = kernel.launch(arguments, shape);
    }
    if (error != nullptr) throw std::runtime_error(std::string(kernel.name) + " failed to launch: " + error);
    return;
  }
  throw std::runtime_error(std::string("this build has no gradient of ") + name_of(dtype) + " on " +
                           name_of(machine.backend));
}

}  // namespace

void run(SlotDotCall const& call, RunOptions const& options) {
  SlotDotArguments const arguments = checked(call);
  if (arguments.slots > 0) launch(slot_dot_kernels(), arguments, dtype_of(call.input.type), call.grad, options);
}

void run(RowSumCall const& call, RunOptions const& options) {
  RowSumArguments const arguments = checked(call);
  if (is_empty(call.output)) return;
  launch(row_sum_kernels(), arguments, dtype_of(call.output.type), call.grad, options);
}

}  // namespace moe_cute
