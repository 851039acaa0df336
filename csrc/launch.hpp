// How a variant is run: the type that every launcher has, declared once for the generated table.
#pragma once

#include <cstdint>

#include "arguments.hpp"
#include "configuration.hpp"

namespace moe_cute {

// Runs `body(begin, end, context)` over a partition of [0, count), on as many threads as the host framework has.
using ParallelFor = void (*)(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);

struct LaunchShape {
  // CUDA
  int threads = 256;
  int prefetch_kib = 0;  // so many KiB for each multiprocessor, before the kernel before has ended
  bool programmatic_dependent_launch = true;
  int multiprocessors = 0;
  int64_t l2_bytes = 0;
  void* stream = nullptr;
  // CPU
  ParallelFor parallel_for = nullptr;
  int64_t last_level_cache_bytes = 0;
};

// Null on success, else what went wrong.
using Launch = char const* (*)(SumReduceArguments const&, LaunchShape const&);

template <class C>
char const* launch_cuda(SumReduceArguments const& call, LaunchShape const& shape);

template <class C, InstructionSet kInstructionSet>
char const* launch_cpu(SumReduceArguments const& call, LaunchShape const& shape);

}  // namespace moe_cute
