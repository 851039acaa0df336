// moe_cute._C: the direct way in from Python, past the dispatcher, and what the front end asks about the build.
#include "python_tensors.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "cuda_device.hpp"
#include "host_threads.hpp"
#include "run.hpp"

namespace moe_cute {
namespace {

// The order of the tensors in every argument list of this module.
constexpr Py_ssize_t kTensors = 8;
constexpr char const* kTensorNames[kTensors] = {"input",      "output",           "topk_weights",  "topk_ids",
                                                "expert_map", "inv_permuted_idx", "shared_output", "num_tokens"};

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
// num_tokens, variant[, threads, prefetch_kib]]): the plain call passes four, the tuner all.
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
    if (!PyBool_Check(args[3])) throw ArgumentError("pdl", "of another type", "True or False", true);
    options.programmatic_dependent_launch = args[3] == Py_True;
    options.parallel_for = on_torch_threads;
    if (count > 4 && args[10] != Py_None) {
      Py_ssize_t length = 0;
      options.variant = PyUnicode_AsUTF8AndSize(args[10], &length);
      if (options.variant == nullptr) return nullptr;
      expect_variant_name({options.variant, std::size_t(length)});
    }
    if (count == 13) {
      options.threads = static_cast<int>(PyLong_AsLong(args[11]));
      options.prefetch_kib = static_cast<int>(PyLong_AsLong(args[12]));
      if (PyErr_Occurred()) return nullptr;
    }
    if (call.input.device == Device::kCuda) options.stream = current_stream(call.input.device_index);
    {
      ReleasedGil const released;
      run(call, options);
    }
    Py_RETURN_NONE;
  });
}

// A list of what `object_of` makes of each item; null, with a Python error set, where one of the steps fails.
template <class Items, class ObjectOf>
PyObject* list_of(Items const& items, ObjectOf const& object_of) {
  PyObject* const list = PyList_New(0);
  if (list == nullptr) return nullptr;
  for (auto const& item : items) {
    PyObject* const object = object_of(item);
    bool const appended = object != nullptr && PyList_Append(list, object) == 0;
    Py_XDECREF(object);
    if (!appended) {
      Py_DECREF(list);
      return nullptr;
    }
  }
  return list;
}

// check(descriptions of the eight tensors..., scale): raises what a call would raise.
PyObject* check_call(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject* tensors[kTensors];
    double scale = 1;
    if (!PyArg_ParseTuple(args, "OOOOOOOOd", &tensors[0], &tensors[1], &tensors[2], &tensors[3], &tensors[4],
                          &tensors[5], &tensors[6], &tensors[7], &scale)) {
      return nullptr;
    }
    checked(call_of(tensors, scale, described_view));
    Py_RETURN_NONE;
  });
}

// What "behind" says in Python and in specs/tuning/, or "nothing" to overlap with.
Predecessor predecessor_named(std::string const& behind) {
  if (behind == "trigger") return Predecessor::kTriggering;
  if (behind == "ordinary") return Predecessor::kOrdinary;
  if (behind == "nothing") return Predecessor::kNone;
  throw ArgumentError("behind", behind, "trigger, ordinary or nothing");
}

// explain(descriptions of the eight tensors..., scale, architecture, multiprocessors, l2_mib, behind) -> (name or None,
// threads, prefetch_kib, measured, [(refused name, reason)...]). An architecture of 0 asks the device itself.
PyObject* explain_call(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject* tensors[kTensors];
    double scale = 1;
    int architecture = 0, multiprocessors = 0, l2_mib = 0;
    char const* behind = nullptr;
    if (!PyArg_ParseTuple(args, "OOOOOOOOdiiis", &tensors[0], &tensors[1], &tensors[2], &tensors[3], &tensors[4],
                          &tensors[5], &tensors[6], &tensors[7], &scale, &architecture, &multiprocessors, &l2_mib,
                          &behind)) {
      return nullptr;
    }
    Call const call = call_of(tensors, scale, described_view);
    SumReduceArguments const arguments = checked(call);
    Machine machine;
    if (call.input.device == Device::kCuda && architecture != 0) {
      machine = {Backend::kCuda, architecture, multiprocessors, InstructionSet::kNone, int64_t(l2_mib) << 20};
    } else {
      machine = machine_of(call.input);
    }
    Predecessor const predecessor = has_dependent_launch(machine) ? predecessor_named(behind) : Predecessor::kNone;
    std::vector<Refusal> refusals;
    Choice const choice = explain(arguments, machine, predecessor, refusals);
    PyObject* const list = list_of(refusals, [](Refusal const& refusal) {
      return Py_BuildValue("(ss)", refusal.variant->name, refusal.reason.c_str());
    });
    if (list == nullptr) return nullptr;
    return Py_BuildValue("(ziiNN)", choice.variant ? choice.variant->name : nullptr, choice.threads,
                         choice.prefetch_kib, PyBool_FromLong(choice.measured), list);
  });
}

PyObject* list_variants(PyObject*, PyObject*) {
  return list_of(variants(), [](Variant const& variant) {
    return Py_BuildValue("{s:s,s:s,s:s,s:i,s:i,s:i,s:s,s:s,s:N,s:N}", "name", variant.name, "backend",
                         name_of(variant.backend), "dtype", name_of(variant.dtype), "hidden", variant.hidden, "topk",
                         variant.topk, "vector_width", variant.vector_width, "instruction_set",
                         name_of(variant.instruction_set), "epilogue", name_of(variant.epilogue), "unaligned",
                         PyBool_FromLong(variant.is_unaligned), "built", PyBool_FromLong(variant.launch != nullptr));
  });
}

PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s,s:s,s:s,s:s}", "cuda_architectures", compiled_architectures(), "cuda_runtime",
                       cuda_runtime_version(), "cuda_driver", cuda_driver_version(), "instruction_set",
                       name_of(this_host().instruction_set));
}

PyMethodDef methods[] = {
    {"sum_reduce", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)(void)>(sum_reduce)), METH_FASTCALL, nullptr},
    {"check", check_call, METH_VARARGS, nullptr},
    {"explain", explain_call, METH_VARARGS, nullptr},
    {"variants", list_variants, METH_NOARGS, nullptr},
    {"build_info", build_info, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "moe_cute._C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace moe_cute

PyMODINIT_FUNC PyInit__C() {
  if (!moe_cute::find_exchange_api()) return nullptr;
  return PyModule_Create(&moe_cute::module_definition);
}
