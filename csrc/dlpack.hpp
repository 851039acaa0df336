// The part of DLPack's C exchange interface (version 1.x) that the direct binding uses. torch exports it as
// torch.Tensor.__dlpack_c_exchange_api__, a capsule, from 2.10 on; the layouts are DLPack's ABI.
#pragma once

#include <cstdint>

namespace moe_cute::dlpack {

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBfloat = 4,
  kComplex = 5,
  kBool = 6,
  kFloat8E4m3fn = 10,
  kFloat8E4m3fnuz = 11,
  kFloat8E5m2 = 12,
  kFloat8E5m2fnuz = 13,
  kFloat8E8m0fnu = 14,
};

struct Device {
  int32_t type;
  int32_t index;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t rank;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct ExchangeApi {
  struct Header {
    uint32_t major;
    uint32_t minor;
    Header* previous;
  } header;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  int (*tensor_from_py_object)(void* py_object, Tensor* out);  // borrows; null where not supported
  int (*current_work_stream)(int32_t device_type, int32_t device_index, void** out);
};

inline constexpr char const* kCapsuleName = "dlpack_exchange_api";
inline constexpr uint32_t kMajorVersion = 1;

}  // namespace moe_cute::dlpack
