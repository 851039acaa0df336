#include "preference.hpp"

#include <cstdlib>
#include <tuple>

#include "acceptance.hpp"
#include "heuristic.hpp"
#include "variant.hpp"

namespace moe_cute {
namespace {

// The rule measured on what is nearest to the call: in the kernel before, the epilogue (that which does most of what
// the call needs, and no more), the dtype, topk, and the L2 cache, by which GPUs of one architecture are told apart.
// Where topk has no kernel of its own, the ladder of those without is nearer than any number's. Rules go by the size of
// the output: by what is read, weighted calls followed the ladder of eight slots so far down that [776, 1, 3072] took
// 6.2 us on an H200, of 3.3.
Preference preferred(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  int64_t const outputs = call.tokens * call.hidden;
  bool const has_kernel = has_kernel_for_topk(call.topk);
  auto const topk_distance = [&](LaunchRule const& rule) -> int64_t {
    if (rule.topk == kAny) return has_kernel ? INT64_MAX : -1;
    return std::abs(int64_t(rule.topk) - call.topk);
  };
  bool const behind_trigger = predecessor == Predecessor::kTriggering;
  auto const distance = [&](LaunchRule const& rule) {
    return std::make_tuple(rule.behind_trigger != behind_trigger, -static_cast<int>(rule.epilogue),
                           rule.dtype != call.input_dtype, topk_distance(rule), std::abs(rule.l2_mib - l2_mib(machine)),
                           rule.topk, rule.l2_mib,  // of two ladders as near, one
                           rule.outputs);
  };
  LaunchRule const* best = nullptr;
  for (LaunchRule const& rule : launch_rules()) {
    if (rule.architecture != machine.architecture) continue;
    if (element_bytes(rule.dtype) != element_bytes(call.input_dtype)) continue;
    if (rule.epilogue > needed_epilogue(call)) continue;
    if (outputs > rule.outputs) continue;
    if (best == nullptr || distance(rule) < distance(*best)) best = &rule;
  }
  if (best == nullptr) return heuristic(call, machine);
  return {best->vector_width, best->threads, best->prefetch_kib, true};
}

Preference aligned_preference(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  if (call.live_tokens) return live_tokens_preference(call);
  if (std::optional<Preference> const fused = fused_preference(call, machine)) return *fused;
  Preference preference = preferred(call, machine, predecessor);
  prefer_more_rows(call, machine, preference);
  return preference;
}

// Without overlap there is nothing to prefetch behind. Behind an ordinary kernel, most of whose writes are still in the
// cache, the requests cost more than they bring, unless a measurement says otherwise: on an H200, behind one that has
// just written the input, bfloat16 unpermuted and weighted [110, 7, 2048] took 2.35 us with prefetch and 1.92 without,
// [8, 3, 893] 1.75 and 1.38, the sums of [391, 12, 907] 3.29 and 2.78; weighted and shared [36, 6, 7168], offset by one
// element, 2.12 and 2.34. Over 255 random calls, what rules say took 1.083 times the best with it, 1.034 times without.
bool may_prefetch(Preference const& preference, Predecessor predecessor) {
  return predecessor == Predecessor::kTriggering || (predecessor == Predecessor::kOrdinary && preference.measured);
}

}  // namespace

Preferences preferences_for(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  if (machine.backend == Backend::kCpu) return {};
  Preferences preferences{aligned_preference(call, machine, predecessor), unaligned_preference(call, machine)};
  for (Preference* const each : {&preferences.aligned, &preferences.unaligned}) {
    if (!may_prefetch(*each, predecessor)) each->prefetch_kib = 0;
  }
  return preferences;
}

}  // namespace moe_cute
