// A call as a front end hands it over: tensors by view, nothing checked yet.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "arguments.hpp"

namespace moe_cute {

enum class Type : int8_t { kFloat16, kBFloat16, kFloat32, kFloat64, kInt32, kInt64, kOther };
enum class Device : int8_t { kCpu, kCuda, kOther };

struct TensorView {
  static constexpr int kMaxRank = 3;  // of sizes and strides kept; `rank` itself is the tensor's

  bool given = false;
  void* data = nullptr;
  Type type = Type::kOther;
  char const* other_type_name = nullptr;  // of kOther, for messages
  Device device = Device::kOther;
  int32_t device_index = 0;
  int32_t rank = 0;
  int64_t sizes[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};  // in elements
};

bool is_empty(TensorView const& tensor);

struct Call {
  TensorView input;
  TensorView output;
  TensorView topk_weights;
  TensorView topk_ids;
  TensorView expert_map;
  TensorView inv_permuted_idx;
  TensorView shared_output;
  TensorView num_tokens;
  double routed_scaling_factor = 1.0;
};

// A refused argument. `wrong_type` tells a front end with two kinds of error which one it is.
struct ArgumentError : std::invalid_argument {
  ArgumentError(std::string const& argument, std::string const& was, std::string const& allowed,
                bool wrong_type = false)
      : std::invalid_argument(argument + ": was " + was + "; allowed: " + allowed), wrong_type(wrong_type) {}
  bool wrong_type;
};

// Throws ArgumentError; on return everything that a launcher relies on holds.
SumReduceArguments checked(Call const& call);

// The dtype of the elements as the launchers name them; `type` is one of the four floating-point ones.
DType dtype_of(Type type);
char const* name_of(DType dtype);
char const* name_of(Type type);
char const* type_name_of(TensorView const& tensor);

}  // namespace moe_cute
