#include "gradient_run.hpp"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "cuda_capture.hpp"
#include "cuda_device.hpp"
#include "gradient.hpp"

namespace moe_cute {
namespace {

// ---- checks ---------------------------------------------------------------------------------------------------------

std::string shape_text(TensorView const& tensor) {
  std::string text = "of shape [";
  for (int dim = 0; dim < std::min<int>(tensor.rank, TensorView::kMaxRank); ++dim) {
    text += (dim ? ", " : "") + std::to_string(tensor.sizes[dim]);
  }
  return text + (tensor.rank > TensorView::kMaxRank ? ", ...]" : "]");
}

void expect_rank(char const* name, TensorView const& tensor, int rank, char const* shape) {
  if (tensor.rank != rank) throw ArgumentError(name, shape_text(tensor), shape);
}

void expect_shape(char const* name, TensorView const& tensor, std::initializer_list<int64_t> sizes, char const* shape) {
  expect_rank(name, tensor, static_cast<int>(sizes.size()), shape);
  if (!std::equal(sizes.begin(), sizes.end(), tensor.sizes)) throw ArgumentError(name, shape_text(tensor), shape);
}

void expect_type(char const* name, TensorView const& tensor, Type type) {
  if (tensor.type != type) {
    throw ArgumentError(name, std::string("of dtype ") + type_name_of(tensor), name_of(type), true);
  }
}

void expect_contiguous(char const* name, TensorView const& tensor) {
  if (is_empty(tensor)) return;
  int64_t elements = 1;
  for (int dim = tensor.rank - 1; dim >= 0; --dim) {
    if (tensor.sizes[dim] > 1 && tensor.strides[dim] != elements) throw ArgumentError(name, "strided", "contiguous");
    elements *= tensor.sizes[dim];
  }
}

void expect_device(char const* name, TensorView const& tensor, TensorView const& grad) {
  if (tensor.device != grad.device || tensor.device_index != grad.device_index) {
    throw ArgumentError(name, "on another device", "grad's device");
  }
}

void expect_indices(char const* name, TensorView const& tensor, TensorView const& grad) {
  expect_type(name, tensor, Type::kInt64);
  expect_device(name, tensor, grad);
  expect_contiguous(name, tensor);
}

// Of dtype `type`, the input's, or of its accumulator's.
void expect_grad(TensorView const& grad, Type type) {
  if (type > Type::kFloat64)
    throw ArgumentError("input", std::string("of dtype ") + name_of(type), "floating-point", true);
  if (grad.type != type) expect_type("grad", grad, accumulator_of(type));
}

SlotDotArguments checked(SlotDotCall const& call) {
  TensorView const &grad = call.grad, &input = call.input, &row_of_slot = call.row_of_slot;
  expect_rank("row_of_slot", row_of_slot, 2, "[tokens, topk]");
  bool const permuted = input.rank == 2;
  if (!permuted) expect_rank("input", input, 3, "[tokens, topk, hidden] or [rows, hidden]");
  int64_t const hidden = input.sizes[input.rank - 1];
  expect_grad(grad, input.type);
  expect_shape("grad", grad, {row_of_slot.sizes[0], hidden}, "[tokens, hidden]");
  expect_device("input", input, grad);
  expect_indices("row_of_slot", row_of_slot, grad);

  SlotDotArguments arguments;
  arguments.grad = grad.data;
  arguments.input = input.data;
  arguments.row_of_slot = static_cast<int64_t const*>(row_of_slot.data);
  arguments.products = call.products.data;
  arguments.slots = row_of_slot.sizes[0] * row_of_slot.sizes[1];
  arguments.topk = row_of_slot.sizes[1];
  arguments.rows_per_token = permuted ? 1 : input.sizes[1];
  arguments.rows = input.sizes[0] * arguments.rows_per_token;
  arguments.hidden = hidden;
  arguments.grad_token_stride = grad.strides[0];
  arguments.grad_hidden_stride = grad.strides[1];
  arguments.input_token_stride = input.strides[0];
  arguments.input_topk_stride = permuted ? 0 : input.strides[1];
  arguments.input_hidden_stride = input.strides[input.rank - 1];
  arguments.grad_is_accumulator = grad.type != input.type;
  arguments.scale = call.scale;
  return arguments;
}

RowSumArguments checked(RowSumCall const& call) {
  TensorView const &grad = call.grad, &row_of_slot = call.row_of_slot, &weights = call.topk_weights;
  expect_rank("row_of_slot", row_of_slot, 2, "[tokens, topk]");
  expect_rank("grad", grad, 2, "[tokens, hidden]");
  expect_grad(grad, call.output.type);
  int64_t const tokens = row_of_slot.sizes[0], topk = row_of_slot.sizes[1];
  expect_shape("grad", grad, {tokens, grad.sizes[1]}, "[tokens, hidden]");
  expect_shape("slot_order", call.slot_order, {tokens * topk}, "[tokens x topk]");
  expect_indices("slot_order", call.slot_order, grad);
  expect_rank("first_slot", call.first_slot, 1, "[rows + 1]");
  expect_indices("first_slot", call.first_slot, grad);
  if (weights.given) {
    expect_shape("topk_weights", weights, {tokens, topk}, "[tokens, topk]");
    expect_type("topk_weights", weights, accumulator_of(call.output.type));
    expect_device("topk_weights", weights, grad);
    expect_contiguous("topk_weights", weights);
  }

  RowSumArguments arguments;
  arguments.grad = grad.data;
  arguments.weights = weights.data;
  arguments.slot_order = static_cast<int64_t const*>(call.slot_order.data);
  arguments.first_slot = static_cast<int64_t const*>(call.first_slot.data);
  arguments.output = call.output.data;
  arguments.topk = topk;
  arguments.rows = call.output.sizes[0];
  arguments.hidden = grad.sizes[1];
  arguments.grad_token_stride = grad.strides[0];
  arguments.grad_hidden_stride = grad.strides[1];
  arguments.grad_is_accumulator = grad.type != call.output.type;
  arguments.scale = call.scale;
  return arguments;
}

// ---- launch ---------------------------------------------------------------------------------------------------------

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
      LaunchSite const site(options.stream, machine);
      shape.programmatic_dependent_launch = site.wants_programmatic_launch();
      error = kernel.launch(arguments, shape);
      site.note_launch();
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

Type accumulator_of(Type type) { return type == Type::kFloat64 ? Type::kFloat64 : Type::kFloat32; }

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
