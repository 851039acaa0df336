// moe_cute._C: the direct way in from Python, past the dispatcher, and what the front end asks about the build.
//
// Tensors are read through DLPack's C exchange interface: no Python object is built and no attribute looked up.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cuda_device.hpp"
#include "dlpack.hpp"
#include "host_threads.hpp"
#include "run.hpp"

namespace moe_cute {
namespace {

dlpack::ExchangeApi const* exchange_api = nullptr;
PyTypeObject* tensor_type = nullptr;  // torch.Tensor

// A Python error is set already.
struct PythonError {};

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

// The order of the tensors in every argument list of this module.
constexpr Py_ssize_t kTensors = 8;
constexpr char const* kTensorNames[kTensors] = {"input",      "output",           "topk_weights",  "topk_ids",
                                                "expert_map", "inv_permuted_idx", "shared_output", "num_tokens"};

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
  if (exported.data == nullptr && !is_empty(view))
    throw ArgumentError(name, "a tensor without memory", "one that has been computed");
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

// Runs `body` and turns what it throws into a Python exception.
template <class Body>
PyObject* guarded(Body const& body) {
  try {
    return body();
  } catch (PythonError const&) {
  } catch (ArgumentError const& error) {
    PyErr_SetString(error.wrong_type ? PyExc_TypeError : PyExc_ValueError, error.what());
  } catch (std::exception const& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

struct ReleasedGil {
  PyThreadState* state = PyEval_SaveThread();
  ~ReleasedGil() { PyEval_RestoreThread(state); }
};

template <class View>
Call call_of(PyObject* const* tensors, double scale, View const& view) {
  return {view(tensors[0], kTensorNames[0]), view(tensors[1], kTensorNames[1]), view(tensors[2], kTensorNames[2]),
          view(tensors[3], kTensorNames[3]), view(tensors[4], kTensorNames[4]), view(tensors[5], kTensorNames[5]),
          view(tensors[6], kTensorNames[6]), view(tensors[7], kTensorNames[7]), scale};
}

// sum_reduce(input, output, scale, pdl[, topk_weights, topk_ids, expert_map, inv_permuted_idx, shared_output,
// num_tokens, variant[, threads, prefetch]]): the plain call passes four, the tuner all.
PyObject* sum_reduce(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    if (count != 4 && count != 11 && count != 13) {
      PyErr_SetString(PyExc_TypeError, "sum_reduce takes 4, 11 or 13 arguments");
      return nullptr;
    }
    PyObject* tensors[kTensors] = {args[0], args[1], Py_None, Py_None, Py_None, Py_None, Py_None, Py_None};
    if (count > 4) std::copy(args + 4, args + 10, tensors + 2);
    Call const call = call_of(tensors, number_of(args[2]), view_of);

    RunOptions options;
    options.programmatic_dependent_launch = args[3] != Py_False;
    options.parallel_for = on_torch_threads;
    if (count > 4 && args[10] != Py_None) {
      options.variant = PyUnicode_AsUTF8AndSize(args[10], nullptr);
      if (options.variant == nullptr) return nullptr;
    }
    if (count == 13) {
      options.threads = static_cast<int>(PyLong_AsLong(args[11]));
      options.prefetch = args[12] == Py_True;
      if (PyErr_Occurred()) return nullptr;
    }
    if (call.input.device == Device::kCuda &&
        exchange_api->current_work_stream(dlpack::kCuda, call.input.device_index, &options.stream) != 0) {
      return nullptr;
    }
    {
      ReleasedGil const released;
      run(call, options);
    }
    Py_RETURN_NONE;
  });
}

// A tensor that need not exist: (shape, strides, type name, device name, device index, address).
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

PyObject* text_pair(std::string const& first, std::string const& second) {
  return Py_BuildValue("(ss)", first.c_str(), second.c_str());
}

// explain(descriptions of the eight tensors..., scale, architecture, multiprocessors, pdl) -> (name or None, threads,
// prefetch, measured, [(refused name, reason)...]). An architecture of 0 asks the device itself.
PyObject* explain_call(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject* tensors[kTensors];
    double scale = 1;
    int architecture = 0, multiprocessors = 0, pdl = 1;
    if (!PyArg_ParseTuple(args, "OOOOOOOOdiip", &tensors[0], &tensors[1], &tensors[2], &tensors[3], &tensors[4],
                          &tensors[5], &tensors[6], &tensors[7], &scale, &architecture, &multiprocessors, &pdl)) {
      return nullptr;
    }
    Call const call = call_of(tensors, scale, described_view);
    SumReduceArguments const arguments = checked(call);
    Machine machine;
    if (call.input.device == Device::kCuda && architecture != 0) {
      machine = {Backend::kCuda, architecture, multiprocessors, InstructionSet::kNone};
    } else {
      machine = machine_of(call.input);
    }
    std::vector<Refusal> refusals;
    Choice const choice = explain(arguments, machine, pdl && machine.architecture >= 90, refusals);
    PyObject* const list = PyList_New(0);
    for (Refusal const& refusal : refusals) {
      PyObject* const pair = text_pair(refusal.variant->name, refusal.reason);
      PyList_Append(list, pair);
      Py_DECREF(pair);
    }
    return Py_BuildValue("(ziNNN)", choice.variant ? choice.variant->name : nullptr, choice.threads,
                         PyBool_FromLong(choice.prefetch), PyBool_FromLong(choice.measured), list);
  });
}

PyObject* list_variants(PyObject*, PyObject*) {
  PyObject* const list = PyList_New(0);
  for (Variant const& variant : variants()) {
    PyObject* const row = Py_BuildValue("{s:s,s:s,s:s,s:i,s:i,s:i,s:s,s:s,s:N}", "name", variant.name, "backend",
                                        name_of(variant.backend), "dtype", name_of(variant.dtype), "hidden",
                                        variant.hidden, "topk", variant.topk, "vector_width", variant.vector_width,
                                        "instruction_set", name_of(variant.instruction_set), "epilogue",
                                        name_of(variant.epilogue), "built", PyBool_FromLong(variant.launch != nullptr));
    PyList_Append(list, row);
    Py_DECREF(row);
  }
  return list;
}

PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s,s:s,s:s,s:s}", "cuda_architectures", compiled_architectures(), "cuda_runtime",
                       cuda_runtime_version(), "cuda_driver", cuda_driver_version(), "instruction_set",
                       name_of(this_host().instruction_set));
}

PyMethodDef methods[] = {
    {"sum_reduce", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)(void)>(sum_reduce)), METH_FASTCALL, nullptr},
    {"explain", explain_call, METH_VARARGS, nullptr},
    {"variants", list_variants, METH_NOARGS, nullptr},
    {"build_info", build_info, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "moe_cute._C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

// torch must have been imported: this library is linked against it, and its tensors are what is read here.
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

}  // namespace
}  // namespace moe_cute

PyMODINIT_FUNC PyInit__C() {
  if (!moe_cute::find_exchange_api()) return nullptr;
  return PyModule_Create(&moe_cute::module_definition);
}
