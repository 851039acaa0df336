#include "tensor_view.hpp"

#include <algorithm>

namespace moe_cute {

bool is_empty(TensorView const& tensor) {
  int const kept = std::min<int>(tensor.rank, TensorView::kMaxRank);
  return std::any_of(tensor.sizes, tensor.sizes + kept, [](int64_t size) { return size == 0; });
}

bool is_floating(Type type) { return type <= Type::kFloat64; }

int bytes_of(Type type) { return type == Type::kInt32 ? 4 : type == Type::kInt64 ? 8 : element_bytes(dtype_of(type)); }

DType dtype_of(Type type) { return static_cast<DType>(type); }

Type accumulator_of(Type type) { return type == Type::kFloat64 ? Type::kFloat64 : Type::kFloat32; }

char const* name_of(Type type) {
  static constexpr char const* kNames[] = {"float16", "bfloat16", "float32",     "float64",
                                           "int32",   "int64",    "another kind"};
  return kNames[static_cast<int>(type)];
}

char const* name_of(DType dtype) { return name_of(static_cast<Type>(dtype)); }

char const* type_name_of(TensorView const& tensor) {
  return tensor.other_type_name ? tensor.other_type_name : name_of(tensor.type);
}

}  // namespace moe_cute
