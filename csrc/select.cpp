#include "select.hpp"

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "call.hpp"

namespace moe_cute {
namespace {

Epilogue needed_epilogue(SumReduceArguments const& call) {
  if (call.expert_ids.data || call.live_tokens || call.input_dtype != call.output_dtype) return Epilogue::kRouted;
  if (call.is_permuted) return Epilogue::kPermuted;
  return call.weights.data || call.shared ? Epilogue::kWeighted : Epilogue::kPlain;
}

// ---- launch: which width and block are preferred
// ---------------------------------------------------------------------

struct Preference {
  int vector_width;
  int threads;
  bool prefetch;
  bool measured;
};

// Without measurements: 16-byte vectors once they fill half of the GPU's thread slots, else twice the threads with half
// the width; blocks of 256 where that leaves two for each multiprocessor; prefetch while the rows fit a tenth of an L2.
// The three bounds are those of the H200's measured ladders, over its 132 multiprocessors.
Preference heuristic(SumReduceArguments const& call, Machine const& machine) {
  int const bytes = element_bytes(call.input_dtype);
  int64_t const wide_vectors = call.tokens * call.hidden * bytes / 16;
  bool const wide = wide_vectors >= int64_t(machine.multiprocessors) * 1024;
  int64_t const vectors = wide ? wide_vectors : 2 * wide_vectors;
  bool const large_blocks = vectors >= int64_t(machine.multiprocessors) * 512;
  bool const prefetch = call.tokens * call.hidden * bytes * call.topk <= int64_t(machine.multiprocessors) * 16384;
  return {std::max(1, (wide ? 16 : 8) / bytes), large_blocks ? 256 : 128, prefetch, false};
}

bool has_kernel_for_topk(int64_t topk) {
  for (Variant const& variant : variants()) {
    if (variant.backend == Backend::kCuda && variant.topk == topk) return true;
  }
  return false;
}

// The rule measured on what is nearest to the call: in the kind of launch, the epilogue, the dtype, and topk. Where
// topk has no kernel of its own, the ladder of those without is nearer than any number's.
Preference preferred(SumReduceArguments const& call, Machine const& machine, bool programmatic) {
  int64_t const elements = call.tokens * call.topk * call.hidden;
  bool const has_kernel = has_kernel_for_topk(call.topk);
  auto const topk_distance = [&](LaunchRule const& rule) -> int64_t {
    if (rule.topk == kAny) return has_kernel ? INT64_MAX : -1;
    return std::abs(int64_t(rule.topk) - call.topk);
  };
  auto const distance = [&](LaunchRule const& rule) {
    return std::make_tuple(rule.programmatic != programmatic, rule.epilogue != needed_epilogue(call),
                           rule.dtype != call.input_dtype, topk_distance(rule), rule.elements);
  };
  LaunchRule const* best = nullptr;
  for (LaunchRule const& rule : launch_rules()) {
    if (rule.architecture != machine.architecture) continue;
    if (element_bytes(rule.dtype) != element_bytes(call.input_dtype)) continue;
    if (rule.epilogue != needed_epilogue(call) && rule.epilogue != Epilogue::kPlain) continue;
    if (elements > rule.elements) continue;
    if (best == nullptr || distance(rule) < distance(*best)) best = &rule;
  }
  if (best == nullptr) return heuristic(call, machine);
  return {best->vector_width, best->threads, best->prefetch, true};
}

// ---- acceptance -----------------------------------------------------------------------------------------------------

std::string number(int64_t value) { return std::to_string(value); }

// Why vectors of `bytes` cannot start at every row of a tensor; empty if they can.
std::string misalignment(char const* name, void const* data, int element_bytes, int bytes, int64_t rows,
                         int64_t row_stride, int64_t topk, int64_t topk_stride, int64_t hidden_stride) {
  if (hidden_stride != 1) return std::string(name) + "'s hidden stride is " + number(hidden_stride) + ", not 1";
  int64_t const past = reinterpret_cast<uintptr_t>(data) % bytes;
  if (past != 0) return std::string(name) + " starts " + number(past) + " bytes past a multiple of " + number(bytes);
  if (topk > 1 && topk_stride * element_bytes % bytes != 0) {
    return std::string(name) + "'s topk rows are " + number(topk_stride * element_bytes) +
           " bytes apart, not a multiple of " + number(bytes);
  }
  if (rows > 1 && row_stride * element_bytes % bytes != 0) {
    return std::string(name) + "'s rows are " + number(row_stride * element_bytes) +
           " bytes apart, not a multiple of " + number(bytes);
  }
  return {};
}

std::string refuse_unpacked(SumReduceArguments const& call) {
  if (call.input_hidden_stride != 1) return "input's hidden stride is " + number(call.input_hidden_stride) + ", not 1";
  if (call.output_hidden_stride != 1)
    return "output's hidden stride is " + number(call.output_hidden_stride) + ", not 1";
  auto const apart = [](char const* rows, int64_t stride, int64_t packed) {
    return std::string(rows) + " are " + number(stride) + " elements apart, not packed " + number(packed);
  };
  if (call.topk > 1 && call.input_topk_stride != call.hidden)
    return apart("the topk rows", call.input_topk_stride, call.hidden);
  if (call.tokens > 1 && call.input_token_stride != call.topk * call.hidden)
    return apart("the input's tokens", call.input_token_stride, call.topk * call.hidden);
  if (call.tokens > 1 && call.output_token_stride != call.hidden)
    return apart("the output's rows", call.output_token_stride, call.hidden);
  return {};
}

std::string refuse_vectors(Variant const& variant, SumReduceArguments const& call) {
  int const width = variant.vector_width;
  if (call.hidden % width != 0) return "hidden size " + number(call.hidden) + " is no multiple of " + number(width);
  int const in = element_bytes(call.input_dtype), out = element_bytes(call.output_dtype);
  int64_t const input_rows = call.is_permuted ? call.rows : call.tokens;
  std::string reason = misalignment("input", call.input, in, width * in, input_rows, call.input_token_stride, call.topk,
                                    call.input_topk_stride, call.input_hidden_stride);
  int const out_access = std::min(width * out, 16);
  if (reason.empty()) {
    reason = misalignment("output", call.output, out, out_access, call.tokens, call.output_token_stride, 1, 0,
                          call.output_hidden_stride);
  }
  if (reason.empty() && call.shared) {
    reason = misalignment("shared_output", call.shared, out, out_access, call.tokens, call.shared_token_stride, 1, 0,
                          call.shared_hidden_stride);
  }
  return reason;
}

// Why a variant cannot run the call; empty if it can.
std::string refuse(Variant const& variant, SumReduceArguments const& call, Machine const& machine) {
  if (variant.backend != machine.backend) {
    return std::string("it runs on ") + name_of(variant.backend) + ", the input is on " + name_of(machine.backend);
  }
  if (variant.dtype != call.input_dtype) {
    return std::string("it reads ") + name_of(variant.dtype) + ", the input is " + name_of(call.input_dtype);
  }
  if (variant.launch == nullptr) return "this build does not contain it";
  if (variant.instruction_set > machine.instruction_set) {
    return std::string("it needs ") + name_of(variant.instruction_set) + ", this processor has " +
           name_of(machine.instruction_set);
  }
  if (variant.epilogue < needed_epilogue(call)) {
    return std::string("the call needs the ") + name_of(needed_epilogue(call)) + " epilogue";
  }
  if (variant.epilogue == Epilogue::kPermuted && call.is_permuted && call.rows > INT32_MAX) {
    return "the input has " + number(call.rows) + " rows, and it counts them in 32 bits";
  }
  if (variant.epilogue != Epilogue::kRouted && call.input_dtype != call.output_dtype)
    return "it stores the input's dtype";
  if (variant.topk != kAny && variant.topk != call.topk)
    return "topk is " + number(call.topk) + ", not " + number(variant.topk);
  if (variant.hidden != kAny && variant.hidden != call.hidden) {
    return "hidden size is " + number(call.hidden) + ", not " + number(variant.hidden);
  }
  if (variant.hidden != kAny) {
    std::string const reason = refuse_unpacked(call);
    if (!reason.empty()) return reason;
  }
  if (variant.backend == Backend::kCuda && variant.vector_width > 1) return refuse_vectors(variant, call);
  return {};
}

// ---- order of preference
// ---------------------------------------------------------------------------------------------

int log2_of(int width) {
  int log = 0;
  while (width >>= 1) ++log;
  return log;
}

// Variants of this backend and dtype that are not made for another topk or hidden size, the preferred first; the
// table's own order decides among equals.
std::vector<Variant const*> candidates(SumReduceArguments const& call, Machine const& machine,
                                       Preference const& preference) {
  std::vector<Variant const*> order;
  for (Variant const& variant : variants()) {
    bool const for_other_sizes = (variant.topk != kAny && variant.topk != call.topk) ||
                                 (variant.hidden != kAny && variant.hidden != call.hidden);
    if (variant.backend == machine.backend && variant.dtype == call.input_dtype && !for_other_sizes)
      order.push_back(&variant);
  }
  auto const rank = [&](Variant const* variant) {
    int const distance = variant->backend == Backend::kCpu
                             ? 0
                             : std::abs(log2_of(variant->vector_width) - log2_of(preference.vector_width));
    return std::make_tuple(std::abs(int(variant->epilogue) - int(needed_epilogue(call))), distance);
  };
  std::stable_sort(order.begin(), order.end(), [&](auto const* a, auto const* b) { return rank(a) < rank(b); });
  return order;
}

Choice choice_of(Variant const* variant, Preference const& preference) {
  if (variant->backend == Backend::kCpu) return {variant, 0, false, false};
  return {variant, preference.threads, preference.prefetch, preference.measured};
}

Preference preference_on(SumReduceArguments const& call, Machine const& machine, bool programmatic) {
  if (machine.backend == Backend::kCpu) return {};
  Preference preference = preferred(call, machine, programmatic);
  if (call.live_tokens) {
    // The capacity says little about the live tokens, which are the fewer the more it matters: small blocks spread few
    // of them over all multiprocessors, and prefetch asks for theirs alone.
    preference.threads = 64;
    preference.prefetch = programmatic;
  }
  return preference;
}

}  // namespace

Choice explain(SumReduceArguments const& call, Machine const& machine, bool programmatic,
               std::vector<Refusal>& refusals) {
  Preference const preference = preference_on(call, machine, programmatic);
  for (Variant const* variant : candidates(call, machine, preference)) {
    std::string reason = refuse(*variant, call, machine);
    if (reason.empty()) return choice_of(variant, preference);
    refusals.push_back({variant, std::move(reason)});
  }
  return {};
}

Choice choose(SumReduceArguments const& call, Machine const& machine, bool programmatic) {
  std::vector<Refusal> refusals;
  return explain(call, machine, programmatic, refusals);
}

Choice choose_by_name(std::string const& name, SumReduceArguments const& call, Machine const& machine,
                      bool programmatic, std::string& refusal) {
  for (Variant const& variant : variants()) {
    if (name != variant.name) continue;
    refusal = refuse(variant, call, machine);
    return refusal.empty() ? choice_of(&variant, preference_on(call, machine, programmatic)) : Choice{};
  }
  refusal = "there is no variant of that name";
  return {};
}

Machine this_host() {
  Machine machine;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) machine.instruction_set = InstructionSet::kAvx2;
  if (machine.instruction_set == InstructionSet::kAvx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    machine.instruction_set = InstructionSet::kAvx512;
  }
#endif
  return machine;
}

char const* name_of(InstructionSet instruction_set) {
  static constexpr char const* kNames[] = {"none", "baseline", "avx2", "avx512"};
  return kNames[static_cast<int>(instruction_set)];
}

char const* name_of(Epilogue epilogue) {
  static constexpr char const* kNames[] = {"plain", "weighted", "permuted", "routed"};
  return kNames[static_cast<int>(epilogue)];
}

char const* name_of(Backend backend) { return backend == Backend::kCuda ? "cuda" : "cpu"; }

}  // namespace moe_cute
