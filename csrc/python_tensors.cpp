#include "python_tensors.hpp"

#include <string>

#include "dlpack.hpp"

namespace moe_cute {
namespace {

dlpack::ExchangeApi const* exchange_api = nullptr;
PyTypeObject* tensor_type = nullptr;  // torch.Tensor

Type type_of(dlpack::DataType dtype) {
  if (dtype.lanes != 1) return Type::kOther;
  if (dtype.code == dlpack::kBfloat && dtype.bits == 16) return Type::kBFloat16;
  if (dtype.code == dlpack::kFloat) {
    return dtype.bits == 16   ? Type::kFloat16
           : dtype.bits == 32 ? Type::kFloat32
           : dtype.bits == 64 ? Type::kFloat64
                              : Type::kOther;
  }
  if (dtype.code == dlpack::kInt)
    return dtype.bits == 32 ? Type::kInt32 : dtype.bits == 64 ? Type::kInt64 : Type::kOther;
  return Type::kOther;
}

Device device_of(int32_t type) {
  switch (type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost: return Device::kCpu;
    case dlpack::kCuda:
    case dlpack::kCudaManaged: return Device::kCuda;
    default: return Device::kOther;
  }
}

// For messages alone: what sum_reduce takes has a Type.
char const* name_of_other(dlpack::DataType dtype) {
  switch (dtype.code) {
    case dlpack::kComplex: return dtype.bits == 64 ? "complex64" : dtype.bits == 128 ? "complex128" : "complex32";
    case dlpack::kBool: return "bool";
    case dlpack::kInt: return dtype.bits == 8 ? "int8" : "int16";
    case dlpack::kUInt:
      return dtype.bits == 8 ? "uint8" : dtype.bits == 16 ? "uint16" : dtype.bits == 32 ? "uint32" : "uint64";
    case dlpack::kFloat8E4m3fn: return "float8_e4m3fn";
    case dlpack::kFloat8E4m3fnuz: return "float8_e4m3fnuz";
    case dlpack::kFloat8E5m2: return "float8_e5m2";
    case dlpack::kFloat8E5m2fnuz: return "float8_e5m2fnuz";
    case dlpack::kFloat8E8m0fnu: return "float8_e8m0fnu";
    default: return "another kind";
  }
}

std::string type_name_of(PyObject* object) {
  PyObject* const name = PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(object)), "__name__");
  char const* const text = name ? PyUnicode_AsUTF8AndSize(name, nullptr) : nullptr;
  std::string const result = text ? text : "an unnamed type";
  Py_XDECREF(name);
  PyErr_Clear();
  return result;
}

}  // namespace

bool find_exchange_api() {
  PyObject* const torch = PyImport_ImportModule("torch");
  PyObject* const tensor = torch ? PyObject_GetAttrString(torch, "Tensor") : nullptr;
  PyObject* const capsule = tensor ? PyObject_GetAttrString(tensor, "__dlpack_c_exchange_api__") : nullptr;
  if (capsule) {
    exchange_api = static_cast<dlpack::ExchangeApi const*>(PyCapsule_GetPointer(capsule, dlpack::kCapsuleName));
  }
  Py_XDECREF(capsule);
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor);  // kept for good
  Py_XDECREF(torch);
  if (exchange_api == nullptr) return false;
  if (exchange_api->header.major != dlpack::kMajorVersion || exchange_api->tensor_from_py_object == nullptr) {
    PyErr_SetString(PyExc_ImportError,
                    "moe_cute needs DLPack's C exchange interface, version 1, of torch 2.10 or newer");
    return false;
  }
  return true;
}

TensorView view_of(PyObject* tensor, char const* name) {
  TensorView view;
  if (tensor == Py_None) return view;
  if (Py_TYPE(tensor) != tensor_type && !PyType_IsSubtype(Py_TYPE(tensor), tensor_type)) {
    throw ArgumentError(name, "of type " + type_name_of(tensor), "a torch.Tensor", true);
  }
  dlpack::Tensor exported;
  if (exchange_api->tensor_from_py_object(tensor, &exported) != 0) throw PythonError{};
  view.given = true;
  view.data = static_cast<char*>(exported.data) + exported.byte_offset;
  view.type = type_of(exported.dtype);
  if (view.type == Type::kOther) view.other_type_name = name_of_other(exported.dtype);
  view.device = device_of(exported.device.type);
  view.device_index = exported.device.index;
  view.rank = exported.rank;
  for (int dim = 0; dim < view.rank && dim < TensorView::kMaxRank; ++dim) {
    view.sizes[dim] = exported.shape[dim];
    view.strides[dim] = exported.strides[dim];
  }
  expect_memory(name, view);
  return view;
}

TensorView described_view(PyObject* description, char const*) {
  TensorView view;
  if (description == Py_None) return view;
  PyObject *shape = nullptr, *strides = nullptr;
  char const *type = nullptr, *device = nullptr;
  unsigned long long address = 0;
  if (!PyArg_ParseTuple(description, "O!O!ssiK", &PyTuple_Type, &shape, &PyTuple_Type, &strides, &type, &device,
                        &view.device_index, &address)) {
    throw PythonError{};
  }
  view.given = true;
  view.data = reinterpret_cast<void*>(address);
  for (int8_t at = 0; at <= static_cast<int8_t>(Type::kOther); ++at) {
    view.type = static_cast<Type>(at);
    if (std::string(type) == name_of(view.type)) break;
  }
  if (view.type == Type::kOther) view.other_type_name = type;  // as long as `description` lives
  view.device = std::string(device) == "cuda"  ? Device::kCuda
                : std::string(device) == "cpu" ? Device::kCpu
                                               : Device::kOther;
  view.rank = static_cast<int32_t>(PyTuple_Size(shape));
  for (int dim = 0; dim < view.rank && dim < TensorView::kMaxRank; ++dim) {
    view.sizes[dim] = PyLong_AsLongLong(PyTuple_GetItem(shape, dim));
    view.strides[dim] = PyLong_AsLongLong(PyTuple_GetItem(strides, dim));
  }
  if (PyErr_Occurred()) throw PythonError{};
  return view;
}

double number_of(PyObject* scale) {
  if (PyFloat_Check(scale) || (PyLong_Check(scale) && !PyBool_Check(scale))) {
    double const value = PyFloat_AsDouble(scale);
    if (value == -1.0 && PyErr_Occurred()) throw PythonError{};
    return value;
  }
  throw ArgumentError("routed_scaling_factor", "of type " + type_name_of(scale), "a float or an int", true);
}

void* current_stream(int32_t device_index) {
  void* stream = nullptr;
  if (exchange_api->current_work_stream(dlpack::kCuda, device_index, &stream) != 0) throw PythonError{};
  return stream;
}

}  // namespace moe_cute
