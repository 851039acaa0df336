// Compiles a loop body for one instruction set, whatever the rest of the file is compiled for.
#pragma once

#include <cstdint>

#include "configuration.hpp"
#include "instruction_sets.hpp"
#include "subnormals.hpp"

namespace moe_cute::cpu {

// `run` calls Task::run(begin, end, task). `flatten` pulls every callee in, so that the instruction set reaches the
// whole body, and no shared inline function is ever compiled for a processor that the machine may not have.
template <class Task, InstructionSet kInstructionSet>
struct Compiled;

#define MOE_CUTE_COMPILED(INSTRUCTION_SET, ATTRIBUTES)                   \
  template <class Task>                                                  \
  struct Compiled<Task, INSTRUCTION_SET> {                               \
    ATTRIBUTES static void run(int64_t begin, int64_t end, void* task) { \
      Task::run(begin, end, *static_cast<Task const*>(task));            \
    }                                                                    \
  };

MOE_CUTE_COMPILED(InstructionSet::kBaseline, __attribute__((flatten, noinline)))
#if defined(__x86_64__)
MOE_CUTE_COMPILED(InstructionSet::kAvx2, __attribute__((flatten, noinline, MOE_CUTE_TARGET_AVX2)))
MOE_CUTE_COMPILED(InstructionSet::kAvx512, __attribute__((flatten, noinline, MOE_CUTE_TARGET_AVX512)))
#endif
#undef MOE_CUTE_COMPILED

// A task should outweigh the handing out: about this many elements.
inline constexpr int64_t kElementsPerTask = 65536;

// What a thread of the pool is given.
template <class Task, InstructionSet kInstructionSet>
void run_task(int64_t begin, int64_t end, void* task) {
  KeepSubnormals const keep;
  Compiled<Task, kInstructionSet>::run(begin, end, task);
}

}  // namespace moe_cute::cpu
