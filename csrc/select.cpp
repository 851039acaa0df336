#include "select.hpp"

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "acceptance.hpp"
#include "preference.hpp"

namespace moe_cute {
namespace {

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
    int const wider =
        variant->backend == Backend::kCpu ? 0 : log2_of(variant->vector_width) - log2_of(preference.vector_width);
    // Where there is no kernel of the preferred width, a wider one costs threads, a narrower one bandwidth.
    return std::make_tuple(std::abs(int(variant->epilogue) - int(needed_epilogue(call))), wider < 0, std::abs(wider));
  };
  std::stable_sort(order.begin(), order.end(), [&](auto const* a, auto const* b) { return rank(a) < rank(b); });
  return order;
}

// A kernel of wider vectors than preferred has fewer threads: smaller blocks spread them over as many multiprocessors.
Choice choice_of(Variant const* variant, Preference const& preference) {
  constexpr int kSmallestBlock = 64;
  int threads = std::min(preference.threads, max_threads(variant->epilogue));
  if (variant->vector_width > preference.vector_width) {
    int const same_vectors = preference.threads * preference.vector_width / variant->vector_width;
    threads = std::min(threads, std::max(kSmallestBlock, same_vectors));
  }
  return {variant, threads, preference.prefetch, preference.measured};
}

}  // namespace

Choice explain(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor,
               std::vector<Refusal>& refusals) {
  Preference const preference = preference_for(call, machine, predecessor);
  for (Variant const* variant : candidates(call, machine, preference)) {
    std::string reason = refuse(*variant, call, machine);
    if (reason.empty()) return choice_of(variant, preference);
    refusals.push_back({variant, std::move(reason)});
  }
  return {};
}

Choice choose(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  std::vector<Refusal> refusals;
  return explain(call, machine, predecessor, refusals);
}

Choice choose_by_name(std::string const& name, SumReduceArguments const& call, Machine const& machine,
                      Predecessor predecessor, std::string& refusal) {
  for (Variant const& variant : variants()) {
    if (name != variant.name) continue;
    refusal = refuse(variant, call, machine);
    return refusal.empty() ? choice_of(&variant, preference_for(call, machine, predecessor)) : Choice{};
  }
  refusal = "there is no variant of that name";
  return {};
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
