// The table of compiled variants, in generated/variants.cpp: best first among those that accept the same call.
#pragma once

#include <cstddef>

#include "launch.hpp"

namespace moe_cute {

struct Variant {
  char const* name;
  Backend backend;
  InstructionSet instruction_set;  // kNone on CUDA
  DType dtype;
  int hidden;  // or kAny
  int topk;    // or kAny
  int vector_width;
  Epilogue epilogue;
  bool is_unaligned;  // vectors may start at any element
  Launch launch;      // null where this build has no such backend
};

// A measured choice of launch, from specs/tuning/: for calls of up to `outputs` (tokens x hidden).
struct LaunchRule {
  int architecture;
  bool behind_trigger;  // for launches behind a kernel that triggers, or for all others
  DType dtype;
  Epilogue epilogue;
  int topk;    // or kAny, for those without a kernel of their own
  int l2_mib;  // of the GPU it was measured on
  int64_t outputs;
  int vector_width;
  int threads;
  int prefetch_kib;
};

template <class T>
struct Table {
  T const* first;
  std::size_t count;
  T const* begin() const { return first; }
  T const* end() const { return first + count; }
};

Table<Variant> variants();
Table<LaunchRule> launch_rules();

// What the build was made for, as text: "80 90 100 120 120+PTX"; empty without CUDA.
char const* compiled_architectures();

}  // namespace moe_cute
