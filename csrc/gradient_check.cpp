// What the gradients' kernels accept.
#include "expect.hpp"
#include "gradient_run.hpp"

namespace moe_cute {
namespace {

void expect_indices(char const* name, TensorView const& tensor, TensorView const& grad) {
  expect_type(name, tensor, Type::kInt64);
  expect_device(name, tensor, "grad", grad);
  expect_contiguous(name, tensor);
}

// Of dtype `type`, the input's, or of its accumulator's.
void expect_grad(TensorView const& grad, Type type) {
  if (grad.type != type) expect_type("grad", grad, accumulator_of(type));
}

}  // namespace

SlotDotArguments checked(SlotDotCall const& call) {
  TensorView const &grad = call.grad, &input = call.input, &row_of_slot = call.row_of_slot;
  expect_rank("row_of_slot", row_of_slot, 2, "[tokens, topk]");
  bool const permuted = input.rank == 2;
  if (!permuted) expect_rank("input", input, 3, "[tokens, topk, hidden] or [rows, hidden]");
  int64_t const hidden = input.sizes[input.rank - 1];
  expect_floating("input", input);
  expect_grad(grad, input.type);
  expect_shape("grad", grad, {row_of_slot.sizes[0], hidden}, "[tokens, hidden]");
  expect_device("input", input, "grad", grad);
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
  expect_floating("out_dtype", call.output);
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
    expect_device("topk_weights", weights, "grad", grad);
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

}  // namespace moe_cute
