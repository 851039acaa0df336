#include "preference.hpp"

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "acceptance.hpp"
#include "variant.hpp"

namespace moe_cute {
namespace {

// Without measurements: 16-byte vectors once they fill half of the GPU's thread slots, else twice the threads with half
// the width; blocks of 256 where that leaves two for each multiprocessor; prefetch wherever launches overlap. The two
// bounds are those of the H200's measured ladders, over its 132 multiprocessors.
Preference heuristic(SumReduceArguments const& call, Machine const& machine) {
  int const bytes = element_bytes(call.input_dtype);
  int64_t const wide_vectors = call.tokens * call.hidden * bytes / 16;
  bool const wide = wide_vectors >= int64_t(machine.multiprocessors) * 1024;
  int64_t const vectors = wide ? wide_vectors : 2 * wide_vectors;
  bool const large_blocks = vectors >= int64_t(machine.multiprocessors) * 512;
  return {std::max(1, (wide ? 16 : 8) / bytes), large_blocks ? 256 : 128, true, false};
}

bool has_kernel_for_topk(int64_t topk) {
  for (Variant const& variant : variants()) {
    if (variant.backend == Backend::kCuda && variant.topk == topk) return true;
  }
  return false;
}

// The rule measured on what is nearest to the call: in the kernel before, the epilogue (that which does most of what
// the call needs, and no more), the dtype, topk, and the L2 cache, by which GPUs of one architecture are told apart.
// Where topk has no kernel of its own, the ladder of those without is nearer than any number's.
Preference preferred(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  int64_t const elements = call.tokens * call.topk * call.hidden;
  bool const has_kernel = has_kernel_for_topk(call.topk);
  auto const topk_distance = [&](LaunchRule const& rule) -> int64_t {
    if (rule.topk == kAny) return has_kernel ? INT64_MAX : -1;
    return std::abs(int64_t(rule.topk) - call.topk);
  };
  bool const behind_trigger = predecessor == Predecessor::kTriggering;
  auto const distance = [&](LaunchRule const& rule) {
    return std::make_tuple(rule.behind_trigger != behind_trigger, -static_cast<int>(rule.epilogue),
                           rule.dtype != call.input_dtype, topk_distance(rule), std::abs(rule.l2_mib - l2_mib(machine)),
                           rule.topk, rule.elements);  // of two ladders as near, one
  };
  LaunchRule const* best = nullptr;
  for (LaunchRule const& rule : launch_rules()) {
    if (rule.architecture != machine.architecture) continue;
    if (element_bytes(rule.dtype) != element_bytes(call.input_dtype)) continue;
    if (rule.epilogue > needed_epilogue(call)) continue;
    if (elements > rule.elements) continue;
    if (best == nullptr || distance(rule) < distance(*best)) best = &rule;
  }
  if (best == nullptr) return heuristic(call, machine);
  return {best->vector_width, best->threads, best->prefetch, true};
}

// Kernels for any topk have eight rows on their way, those of narrow vectors sixteen (kRowsInFlight): with more than
// eight slots the narrow ones are faster at all sizes. On an H100, bfloat16 and 256 threads, [7, 12, 2048] took 1.28 us
// in place of 1.92, [64, 16, 4096] 3.8 for 4.6, [3000, 12, 2048] 52.9 for 53.9; with 128 threads [7, 12, 2048] took
// 1.24, but [64, 16, 4096] 4.2. Not float64, whose 8-byte vectors are single elements: that kernel takes any strides.
bool wants_more_rows(SumReduceArguments const& call) {
  return call.topk > 8 && !has_kernel_for_topk(call.topk) && needed_epilogue(call) < Epilogue::kPermuted &&
         element_bytes(call.input_dtype) <= 4;
}

Preference aligned_preference(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  Preference preference = preferred(call, machine, predecessor);
  if (wants_more_rows(call)) {
    preference.vector_width = 8 / element_bytes(call.input_dtype);
    bool const is_large = call.tokens * call.hidden / preference.vector_width >= int64_t(machine.multiprocessors) * 256;
    preference.threads = is_large ? 256 : 128;
  }
  if (call.live_tokens) {
    // The capacity says little about the live tokens, which are the fewer the more it matters: narrow vectors
    // spread few of them over all multiprocessors, and prefetch asks for theirs alone.
    preference.vector_width = std::max(1, 8 / element_bytes(call.input_dtype));
    preference.threads = 256;
    preference.prefetch = true;
  }
  if (predecessor == Predecessor::kNone) preference.prefetch = false;
  return preference;
}

// Two elements a thread, but four where a thread of two has little to do, or much before its rows, and threads are
// many; and in kernels that loop over topk. Blocks as small as leave four to a multiprocessor, of at most 256 threads,
// but 128 where four elements are looped over: these take registers. On an H200, an input offset by one element,
// bfloat16 and 8 experts unless said, us with 2 and with 4 elements: [64, 2048] 1.40 and 1.96, [1024, 2048] 10.9
// and 11.1; 2 experts [64, 4095] 1.06 and 1.22, [1024, 4095] 9.8 and 8.8; permuted [64, 2048] 1.51 and 2.36, [1024,
// 2048] 13.4 and 11.8; 5 experts [700, 4097] 14.8 and, in blocks of 128, 12.5, of 256, 15.4. By blocks of 64, 128 and
// 256: [32, 2048] 1.40, 1.58, 1.75; [64, 2048] 1.82, 1.40, 1.47; [128, 2048] of 128 and 256 2.06 and 2.02. A single
// element of float64 is 8 bytes already; it gains where topk is looped over, but for more than eight, of which single
// elements have sixteen on their way: with 2 and with 1, 3 experts [300, 2879] 7.4 and 9.4, 12 experts [16, 4095] 4.1
// and 2.9.
Preference unaligned_preference(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  constexpr int kFewBlocks = 4;  // of a multiprocessor
  bool const loops = !has_kernel_for_topk(call.topk);
  bool const are_many = call.tokens * call.hidden / 2 >= int64_t(machine.multiprocessors) * 1024;
  int const bytes = element_bytes(call.input_dtype);
  bool const wants_four = bytes == 2 && (loops || (are_many && (call.topk <= 2 || call.is_permuted)));
  bool const wants_one = bytes == 8 && !(loops && call.topk <= 8);
  Preference preference{wants_four ? 4 : wants_one ? 1 : 2, 64, predecessor != Predecessor::kNone, false};
  int const most = loops && preference.vector_width == 4 ? 128 : 256;
  int64_t const threads = call.tokens * call.hidden / preference.vector_width;
  while (preference.threads < most && threads > int64_t(preference.threads) * kFewBlocks * machine.multiprocessors) {
    preference.threads *= 2;
  }
  return preference;
}

}  // namespace

Preferences preferences_for(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  if (machine.backend == Backend::kCpu) return {};
  return {aligned_preference(call, machine, predecessor), unaligned_preference(call, machine, predecessor)};
}

}  // namespace moe_cute
