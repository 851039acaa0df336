// A tensor as a front end hands it over: what it is and where, nothing checked yet.
#pragma once

#include <cstdint>

#include "configuration.hpp"

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
bool is_floating(Type type);

// Of one element; `type` is not kOther.
int bytes_of(Type type);

// The dtype as the launchers name it; `type` is one of the four floating-point ones.
DType dtype_of(Type type);

// The floating-point type that sums of this one are held in.
Type accumulator_of(Type type);

char const* name_of(DType dtype);
char const* name_of(Type type);
char const* type_name_of(TensorView const& tensor);

}  // namespace moe_cute
