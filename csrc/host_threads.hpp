// torch's own threads, for the CPU launcher.
#pragma once

#include <cstdint>

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

namespace moe_cute {

inline void on_torch_threads(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  // Below two tasks the pool's start costs more than it brings.
  if (count <= grain) return body(0, count, context);
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, grain, body, context));
}

}  // namespace moe_cute
