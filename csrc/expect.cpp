#include "expect.hpp"

#include <algorithm>

namespace moe_cute {
namespace {

std::string joined(int64_t const* sizes, int count) {
  std::string text;
  for (int dim = 0; dim < count; ++dim) text += (dim ? ", " : "") + std::to_string(sizes[dim]);
  return text;
}

std::string shape_of(TensorView const& tensor) {
  if (tensor.rank <= TensorView::kMaxRank) return "of shape [" + joined(tensor.sizes, tensor.rank) + "]";
  return "of shape [" + joined(tensor.sizes, TensorView::kMaxRank) + ", ...], a tensor of rank " +
         std::to_string(tensor.rank);
}

std::string device_of(TensorView const& tensor) {
  if (tensor.device == Device::kOther) return "another device";
  return tensor.device == Device::kCpu ? "cpu" : "cuda:" + std::to_string(tensor.device_index);
}

}  // namespace

void expect_rank(char const* name, TensorView const& tensor, int rank, char const* shape) {
  if (tensor.rank != rank) throw ArgumentError(name, shape_of(tensor), std::string("shape ") + shape);
}

void expect_shape(char const* name, TensorView const& tensor, std::initializer_list<int64_t> sizes, char const* shape) {
  int const rank = static_cast<int>(sizes.size());
  expect_rank(name, tensor, rank, shape);
  if (!std::equal(sizes.begin(), sizes.end(), tensor.sizes)) {
    throw ArgumentError(name, shape_of(tensor), std::string(shape) + " = [" + joined(sizes.begin(), rank) + "]");
  }
}

void expect_one_element(char const* name, TensorView const& tensor) {
  bool const is_kept = tensor.rank <= TensorView::kMaxRank;
  auto const is_one = [](int64_t size) { return size == 1; };
  if (!is_kept || !std::all_of(tensor.sizes, tensor.sizes + tensor.rank, is_one))
    throw ArgumentError(name, shape_of(tensor), "one element, of at most 3 dimensions");
}

void expect_contiguous(char const* name, TensorView const& tensor) {
  if (is_empty(tensor)) return;
  int64_t elements = 1;
  for (int dim = tensor.rank - 1; dim >= 0; --dim) {
    if (tensor.sizes[dim] > 1 && tensor.strides[dim] != elements) throw ArgumentError(name, "strided", "contiguous");
    elements *= tensor.sizes[dim];
  }
}

void expect_memory(char const* name, TensorView const& tensor) {
  int const bytes = tensor.type == Type::kOther ? 1 : bytes_of(tensor.type);
  bool const is_aligned = reinterpret_cast<uintptr_t>(tensor.data) % bytes == 0;
  if (tensor.data != nullptr && is_aligned) return;
  if (tensor.rank > TensorView::kMaxRank || is_empty(tensor)) return;
  if (is_aligned) throw ArgumentError(name, "a tensor without memory", "one that has been computed");
  throw ArgumentError(name, "at an address between two elements",
                      "a multiple of the " + std::to_string(bytes) + " bytes of " + name_of(tensor.type));
}

void expect_device(char const* name, TensorView const& tensor, char const* other_name, TensorView const& other) {
  if (tensor.device != other.device || (tensor.device == Device::kCuda && tensor.device_index != other.device_index)) {
    throw ArgumentError(name, "on " + device_of(tensor),
                        std::string("the ") + other_name + "'s device, " + device_of(other));
  }
}

void expect_type(char const* name, TensorView const& tensor, Type type) {
  if (tensor.type != type) refuse_type(name, tensor, name_of(type));
}

void expect_floating(char const* name, TensorView const& tensor) {
  if (!is_floating(tensor.type)) refuse_type(name, tensor, "float16, bfloat16, float32 or float64");
}

void expect_index(char const* name, TensorView const& tensor) {
  if (tensor.type != Type::kInt32 && tensor.type != Type::kInt64) refuse_type(name, tensor, "int32 or int64");
}

void refuse_type(char const* name, TensorView const& tensor, std::string const& allowed) {
  throw ArgumentError(name, std::string("of dtype ") + type_name_of(tensor), allowed, true);
}

void expect_variant_name(std::string_view name) {
  if (name.find('\0') != std::string_view::npos)
    throw ArgumentError("variant", "a name with a null character", "one of moe_cute.variants(), or None");
}

}  // namespace moe_cute
