#include "select.hpp"

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "acceptance.hpp"
#include "heuristic.hpp"
#include "preference.hpp"

namespace moe_cute {
namespace {

int log2_of(int width) {
  int log = 0;
  while (width >>= 1) ++log;
  return log;
}

// Among the widths, in half steps: vectors that may start anywhere mostly come between single elements and the
// narrowest that may not, but fused ones of eight elements after the pairs. On an H200, bfloat16 [369, 10, 5034] took
// 10.4 us in pairs, 10.6 unaligned by four and 12.5 by two; weighted and shared, [632, 7, 2294] 14.4 in pairs and 11.8
// unaligned by eight.
int half_steps_of(Variant const& variant, Preferences const& preferences) {
  if (!variant.is_unaligned) return 2 * log2_of(variant.vector_width);
  if (preferences.unaligned.vector_width == 8 && variant.epilogue != Epilogue::kPlain) return 3;
  return preferences.unaligned.vector_width > 1 ? 1 : -1;
}

Preference const& of(Preferences const& preferences, Variant const& variant) {
  return variant.is_unaligned ? preferences.unaligned : preferences.aligned;
}

// Variants of this backend and dtype that are not made for another topk or hidden size, the preferred first; the
// table's own order decides among equals.
std::vector<Variant const*> candidates(SumReduceArguments const& call, Machine const& machine,
                                       Preferences const& preferences) {
  std::vector<Variant const*> order;
  for (Variant const& variant : variants()) {
    bool const for_other_sizes = (variant.topk != kAny && variant.topk != call.topk) ||
                                 (variant.hidden != kAny && variant.hidden != call.hidden);
    if (variant.backend == machine.backend && variant.dtype == call.input_dtype && !for_other_sizes)
      order.push_back(&variant);
  }
  auto const rank = [&](Variant const* variant) {
    bool const is_cpu = variant->backend == Backend::kCpu;
    int const wider = is_cpu ? 0 : half_steps_of(*variant, preferences) - 2 * log2_of(preferences.aligned.vector_width);
    bool const is_second = variant->is_unaligned && variant->vector_width != preferences.unaligned.vector_width;
    // Where there is no kernel of the preferred width, a wider one costs threads, a narrower one bandwidth.
    return std::make_tuple(std::abs(int(variant->epilogue) - int(needed_epilogue(call))), wider < 0, std::abs(wider),
                           is_second);
  };
  std::stable_sort(order.begin(), order.end(), [&](auto const* a, auto const* b) { return rank(a) < rank(b); });
  return order;
}

// A kernel of wider vectors than preferred has fewer threads: smaller blocks spread them over as many multiprocessors.
// One of narrower vectors has more, and a GPU starts only so many blocks in a microsecond: larger ones, until each
// reads enough. On an H200, of single elements, float32 [700, 7, 2047] took 14.4 us in blocks of 128 threads, 13.0 of
// 256, bfloat16 [64, 8, 2047] 2.09 and 1.73, [64, 2, 4095] 3.11, 1.92 and, of 512, 1.49; float64 [300, 3,
// 2879] 9.72, 9.54 and 10.5; but float32 [33, 7, 2047], four blocks of 128 a multiprocessor, 1.81, 1.83 and 1.93.
int block_of(Variant const& variant, SumReduceArguments const& call, Machine const& machine,
             Preference const& preference) {
  constexpr int kSmallestBlock = 64;
  constexpr int kWarp = 32;
  constexpr int64_t kEnoughBytes = 4096;
  int const most = max_threads(variant.epilogue);
  int threads = std::min(preference.threads, most);
  if (variant.vector_width > preference.vector_width) {
    int const same_vectors = preference.threads * preference.vector_width / variant.vector_width;
    threads = std::min(threads, std::max(kSmallestBlock, same_vectors / kWarp * kWarp));
  } else if (variant.vector_width < preference.vector_width) {
    int64_t const vectors = call.tokens * call.hidden / variant.vector_width;
    int64_t const bytes_of_thread = call.topk * variant.vector_width * element_bytes(call.input_dtype);
    auto const read_enough = [&] { return threads * bytes_of_thread >= kEnoughBytes; };
    while (2 * threads <= most && !read_enough() && has_many_blocks(vectors, threads, machine)) threads *= 2;
  }
  return threads;
}

Choice choice_of(Variant const& variant, SumReduceArguments const& call, Machine const& machine,
                 Preferences const& preferences) {
  Preference const& preference = of(preferences, variant);
  bool const is_as_measured = preference.measured && variant.vector_width == preference.vector_width;
  return {&variant, block_of(variant, call, machine, preference), preference.prefetch_kib, is_as_measured};
}

}  // namespace

Choice explain(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor,
               std::vector<Refusal>& refusals) {
  Preferences const preferences = preferences_for(call, machine, predecessor);
  for (Variant const* variant : candidates(call, machine, preferences)) {
    std::string reason = refuse(*variant, call, machine);
    if (reason.empty()) return choice_of(*variant, call, machine, preferences);
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
    if (!refusal.empty()) return {};
    return choice_of(variant, call, machine, preferences_for(call, machine, predecessor));
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
