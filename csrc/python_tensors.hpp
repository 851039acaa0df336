// What Python hands over, as the checks see it. Include before any other header.
//
// Tensors are read through DLPack's C exchange interface: no Python object is built and no attribute looked up.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "expect.hpp"

namespace moe_cute {

// A Python error is set already.
struct PythonError {};

// To be called once, before the others; false with a Python error set. torch must have been imported: this library is
// linked against it, and its tensors are what is read here.
bool find_exchange_api();

// Not given where `tensor` is None. Throws PythonError, and ArgumentError under `name`.
TensorView view_of(PyObject* tensor, char const* name);

// A tensor that need not exist: (shape, strides, type name, device name, device index, address).
TensorView described_view(PyObject* description, char const* name);

double number_of(PyObject* scale);

void* current_stream(int32_t device_index);

}  // namespace moe_cute
