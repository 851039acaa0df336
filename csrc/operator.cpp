// The operators torch.ops.moe_cute.sum_reduce and sum_reduce_out, and those of their gradients, over torch's stable
// ABI.
#include <dlfcn.h>

#include <optional>
#include <string>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "expect.hpp"
#include "gradient_run.hpp"
#include "host_threads.hpp"
#include "run.hpp"

namespace moe_cute {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Type type_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half: return Type::kFloat16;
    case ScalarType::BFloat16: return Type::kBFloat16;
    case ScalarType::Float: return Type::kFloat32;
    case ScalarType::Double: return Type::kFloat64;
    case ScalarType::Int: return Type::kInt32;
    case ScalarType::Long: return Type::kInt64;
    default: return Type::kOther;
  }
}

// For messages alone: what sum_reduce takes has a Type. Of the rest of its dtypes torch's stable ABI says no more.
char const* name_of_other(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool: return "bool";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::UInt16: return "uint16";
    case ScalarType::UInt32: return "uint32";
    case ScalarType::UInt64: return "uint64";
    case ScalarType::ComplexHalf: return "complex32";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    case ScalarType::Float8_e4m3fn: return "float8_e4m3fn";
    case ScalarType::Float8_e4m3fnuz: return "float8_e4m3fnuz";
    case ScalarType::Float8_e5m2: return "float8_e5m2";
    case ScalarType::Float8_e5m2fnuz: return "float8_e5m2fnuz";
    default: return "another kind";
  }
}

TensorView view_of(char const* name, Tensor const& tensor) {
  TensorView view;
  view.given = true;
  view.data = tensor.data_ptr();
  view.type = type_of(tensor.scalar_type());
  if (view.type == Type::kOther) view.other_type_name = name_of_other(tensor.scalar_type());
  view.device = tensor.is_cuda() ? Device::kCuda : tensor.is_cpu() ? Device::kCpu : Device::kOther;
  view.device_index = tensor.get_device_index();
  view.rank = static_cast<int32_t>(tensor.dim());
  for (int dim = 0; dim < view.rank && dim < TensorView::kMaxRank; ++dim) {
    view.sizes[dim] = tensor.size(dim);
    view.strides[dim] = tensor.stride(dim);
  }
  expect_memory(name, view);
  return view;
}

TensorView view_of(char const* name, std::optional<Tensor> const& tensor) {
  return tensor ? view_of(name, *tensor) : TensorView{};
}

// In libtorch_cuda, which a machine without CUDA does not have: looked for at run time, in the library that torch
// loaded.
void* current_cuda_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static Get const get = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get != nullptr, "moe_cute: the input is on a CUDA device, but this torch has no CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device, &stream));
  return stream;
}

RunOptions options_for(TensorView const& tensor) {
  RunOptions options;
  options.parallel_for = on_torch_threads;
  if (tensor.device == Device::kCuda) options.stream = current_cuda_stream(tensor.device_index);
  return options;
}

void sum_reduce_out(Tensor input, Tensor output, double routed_scaling_factor, std::optional<Tensor> topk_weights,
                    std::optional<Tensor> topk_ids, std::optional<Tensor> expert_map,
                    std::optional<Tensor> inv_permuted_idx, std::optional<Tensor> shared_output,
                    std::optional<Tensor> num_tokens, std::optional<std::string> variant, bool pdl) {
  Call const call{view_of("input", input),
                  view_of("output", output),
                  view_of("topk_weights", topk_weights),
                  view_of("topk_ids", topk_ids),
                  view_of("expert_map", expert_map),
                  view_of("inv_permuted_idx", inv_permuted_idx),
                  view_of("shared_output", shared_output),
                  view_of("num_tokens", num_tokens),
                  routed_scaling_factor};
  if (variant) expect_variant_name(*variant);
  RunOptions options = options_for(call.input);
  options.variant = variant ? variant->c_str() : nullptr;
  options.programmatic_dependent_launch = pdl;
  run(call, options);
}

Tensor sum_reduce(Tensor input, double routed_scaling_factor, std::optional<Tensor> topk_weights,
                  std::optional<Tensor> topk_ids, std::optional<Tensor> expert_map,
                  std::optional<Tensor> inv_permuted_idx, std::optional<Tensor> shared_output,
                  std::optional<Tensor> num_tokens, std::optional<ScalarType> out_dtype,
                  std::optional<std::string> variant, bool pdl) {
  expect_ranks(view_of("input", input), view_of("inv_permuted_idx", inv_permuted_idx));
  int64_t const tokens = inv_permuted_idx ? inv_permuted_idx->size(0) : input.size(0);
  Tensor output = torch::stable::new_empty(input, {tokens, input.size(input.dim() - 1)}, out_dtype);
  sum_reduce_out(input, output, routed_scaling_factor, topk_weights, topk_ids, expert_map, inv_permuted_idx,
                 shared_output, num_tokens, variant, pdl);
  return output;
}

Tensor slot_dot(Tensor grad, Tensor input, Tensor row_of_slot, double scale) {
  TensorView const slots = view_of("row_of_slot", row_of_slot);
  expect_rank("row_of_slot", slots, 2, "[tokens, topk]");
  bool const wide = input.scalar_type() == ScalarType::Double;
  Tensor products = torch::stable::new_empty(input, {row_of_slot.size(0), row_of_slot.size(1)},
                                             wide ? ScalarType::Double : ScalarType::Float);
  SlotDotCall const call{view_of("grad", grad), view_of("input", input), slots, scale, view_of("products", products)};
  run(call, options_for(call.grad));
  return products;
}

Tensor row_sum(Tensor grad, Tensor row_of_slot, Tensor slot_order, Tensor first_slot, double scale,
               std::optional<Tensor> topk_weights, ScalarType out_dtype) {
  TensorView const grads = view_of("grad", grad), firsts = view_of("first_slot", first_slot);
  expect_rank("grad", grads, 2, "[tokens, hidden]");
  expect_rank("first_slot", firsts, 1, "[rows + 1]");
  if (is_empty(firsts)) throw ArgumentError("first_slot", "empty", "shape [rows + 1]");
  Tensor output = torch::stable::new_empty(grad, {first_slot.size(0) - 1, grad.size(1)}, out_dtype);
  RowSumCall const call{grads,
                        view_of("row_of_slot", row_of_slot),
                        view_of("slot_order", slot_order),
                        firsts,
                        view_of("topk_weights", topk_weights),
                        scale,
                        view_of("output", output)};
  run(call, options_for(call.grad));
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY(moe_cute, library) {
  library.def(
      "sum_reduce(Tensor input, float routed_scaling_factor=1.0, Tensor? topk_weights=None, Tensor? topk_ids=None, "
      "Tensor? expert_map=None, Tensor? inv_permuted_idx=None, Tensor? shared_output=None, Tensor? num_tokens=None, *, "
      "ScalarType? out_dtype=None, str? variant=None, bool pdl=True) -> Tensor");
  library.def(
      "sum_reduce_out(Tensor input, Tensor(a!) output, float routed_scaling_factor=1.0, Tensor? topk_weights=None, "
      "Tensor? topk_ids=None, Tensor? expert_map=None, Tensor? inv_permuted_idx=None, Tensor? shared_output=None, "
      "Tensor? num_tokens=None, *, str? variant=None, bool pdl=True) -> ()");
  library.def("slot_dot(Tensor grad, Tensor input, Tensor row_of_slot, float scale) -> Tensor");
  library.def(
      "row_sum(Tensor grad, Tensor row_of_slot, Tensor slot_order, Tensor first_slot, float scale, Tensor? "
      "topk_weights, "
      "ScalarType out_dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(moe_cute, CPU, library) {
  library.impl("sum_reduce", TORCH_BOX(&sum_reduce));
  library.impl("sum_reduce_out", TORCH_BOX(&sum_reduce_out));
  library.impl("slot_dot", TORCH_BOX(&slot_dot));
  library.impl("row_sum", TORCH_BOX(&row_sum));
}

STABLE_TORCH_LIBRARY_IMPL(moe_cute, CUDA, library) {
  library.impl("sum_reduce", TORCH_BOX(&sum_reduce));
  library.impl("sum_reduce_out", TORCH_BOX(&sum_reduce_out));
  library.impl("slot_dot", TORCH_BOX(&slot_dot));
  library.impl("row_sum", TORCH_BOX(&row_sum));
}

}  // namespace moe_cute
