#include "heuristic.hpp"

#include <algorithm>

#include "acceptance.hpp"
#include "variant.hpp"

namespace moe_cute {
namespace {

// About what memory brings in for each multiprocessor before the kernel before has ended: more would be asked for
// twice. The launches that ladders were measured on, in calls that read more than that, with 24 KiB and without
// prefetch, in units of their time with 40: on an H200 1.00 and 1.05 cold, 0.99 and 0.98 behind a kernel that triggers;
// on an H100 1.01 and 1.08, 0.99 and 1.00 (geometric means of 200 to 490).
constexpr int kPrefetchKib = 24;

// 16-byte vectors of the output.
int64_t wide_vectors(SumReduceArguments const& call) {
  return call.tokens * call.hidden * element_bytes(call.input_dtype) / 16;
}

// Fused kernels for any topk are bound by the instructions of their loop, which wide vectors share, but these have few
// rows on their way. On an H200, bfloat16 in blocks of 128, us by vectors of 8 and of 16 bytes: weighted [124, 5, 2880]
// 3.12 and 3.06, [171, 5, 1536] 2.10 and 3.05, [1678, 5, 2048] 21.1 and 13.9; unpermuted [161, 7, 2048] 2.82 and 3.49,
// [174, 12, 3072] 6.79 and 5.92, [983, 12, 4096] 32.0 and 27.3. What ladders of eight slots had said took up to 2.5
// times the best; this, 1.015 times in the mean of 620 calls of 3 to 22 slots, and 1.43 times at most.
Preference looping_preference(int bytes, int64_t vectors, int64_t multiprocessors) {
  return {(vectors > multiprocessors * 384 ? 16 : 8) / bytes, 128, kPrefetchKib, false};
}

// One or two rows are little for a thread to do, so wide vectors pay earlier, and large blocks, of which a GPU starts
// only so many in a microsecond; but not while threads are few. On an H200, bfloat16 in blocks of 256, by vectors of
// 16, 8 and 4 bytes: weighted [272, 1, 1536] 1.15, 1.05 and 1.39 us, [776, 1, 3072] 3.26, 3.78 and 6.22, unpermuted and
// shared [64, 1, 7168] 1.78, 1.65 and 3.08, [2763, 2, 3072] 17.3, 19.3 and 29.8. What ladders of eight slots say of the
// same size of output took 1.05 times the best in the mean of 25 calls; this, 1.006 times.
std::optional<Preference> few_rows_preference(int bytes, int64_t vectors, int64_t multiprocessors) {
  if (vectors < multiprocessors * 128) return std::nullopt;
  return Preference{(vectors > multiprocessors * 1024 ? 16 : 8) / bytes, 256, kPrefetchKib, false};
}

}  // namespace

bool has_kernel_for_topk(int64_t topk) {
  for (Variant const& variant : variants()) {
    if (variant.backend == Backend::kCuda && variant.topk != kAny && variant.topk == topk) return true;
  }
  return false;
}

bool has_many_blocks(int64_t vectors, int threads, Machine const& machine) {
  return vectors > int64_t(threads) * 4 * machine.multiprocessors;
}

// Without measurements: 16-byte vectors once they fill half of the GPU's thread slots, else twice the threads with half
// the width; blocks of 256 where that leaves two for each multiprocessor. The two bounds are those of the H200's
// measured ladders, over its 132 multiprocessors.
Preference heuristic(SumReduceArguments const& call, Machine const& machine) {
  int const bytes = element_bytes(call.input_dtype);
  bool const wide = wide_vectors(call) >= int64_t(machine.multiprocessors) * 1024;
  int64_t const vectors = wide ? wide_vectors(call) : 2 * wide_vectors(call);
  bool const large_blocks = vectors >= int64_t(machine.multiprocessors) * 512;
  return {std::max(1, (wide ? 16 : 8) / bytes), large_blocks ? 256 : 128, kPrefetchKib, false};
}

// Kernels for any topk have eight rows on their way, those of narrow vectors sixteen (kRowsInFlight): with more than
// eight slots the narrow ones are faster at all sizes. On an H100, bfloat16 and 256 threads, [7, 12, 2048] took 1.28 us
// in place of 1.92, [64, 16, 4096] 3.8 for 4.6, [3000, 12, 2048] 52.9 for 53.9; with 128 threads [7, 12, 2048] took
// 1.24, but [64, 16, 4096] 4.2. Not float64, whose 8-byte vectors are single elements: that kernel takes any strides.
void prefer_more_rows(SumReduceArguments const& call, Machine const& machine, Preference& preference) {
  if (call.topk <= 8 || has_kernel_for_topk(call.topk) || needed_epilogue(call) != Epilogue::kPlain ||
      element_bytes(call.input_dtype) > 4)
    return;
  preference.vector_width = 8 / element_bytes(call.input_dtype);
  bool const is_large = call.tokens * call.hidden / preference.vector_width >= int64_t(machine.multiprocessors) * 256;
  preference.threads = is_large ? 256 : 128;
  preference.measured = false;
}

// The capacity says little about the live tokens, which are the fewer the more it matters: narrow vectors spread few of
// them over all multiprocessors, and prefetch asks for theirs alone.
Preference live_tokens_preference(SumReduceArguments const& call) {
  return {std::max(1, 8 / element_bytes(call.input_dtype)), 256, kPrefetchKib, false};
}

std::optional<Preference> fused_preference(SumReduceArguments const& call, Machine const& machine) {
  Epilogue const needed = needed_epilogue(call);
  int const bytes = element_bytes(call.input_dtype);
  if (needed == Epilogue::kPlain || needed == Epilogue::kRouted || bytes > 4) return std::nullopt;
  if (!has_kernel_for_topk(call.topk)) return looping_preference(bytes, wide_vectors(call), machine.multiprocessors);
  if (call.topk <= 2) return few_rows_preference(bytes, wide_vectors(call), machine.multiprocessors);
  return std::nullopt;
}

// Two elements a thread while threads are few, then words shifted into place: of four elements, or of eight where topk
// is looped over. Blocks as small as leave four to a multiprocessor, of at most 256 threads, but of 128 where a thread
// has taken many registers. On an H200, bfloat16, us: of [200, 8, 2880], offset by one element, 3.60 with two elements
// and 3.68 with four, of [355, 8, 4096] 8.1 and 7.2, of [2446, 8, 4071] 48.8 and 42.4; of [247, 5, 2048] with two and
// with eight 3.48 and 2.59; weighted and shared, of [844, 16, 2465] 35 and 24.8, and in blocks of 256 32.4; permuted,
// of [868, 8, 5120] with two and with four 27.2 and 24.9, in blocks of 256 25.9; weighted, of [1779, 1, 4096] with four
// in blocks of 128 and 256 17.6 and 10.7. By blocks of 64, 128 and 256, of two: [32, 8, 2048] 1.40, 1.58, 1.75; [64, 8,
// 2048] 1.82, 1.40, 1.47. Over 295 random calls: 1.03 times the best of these in the mean. A single element of float64
// is 8 bytes already; it gains where topk is looped over, but for more than eight, of which single elements have
// sixteen on their way: with 2 and with 1, 3 experts [300, 2879] 7.4 and 9.4, 12 experts [16, 4095] 4.1 and 2.9.
Preference unaligned_preference(SumReduceArguments const& call, Machine const& machine) {
  int const bytes = element_bytes(call.input_dtype);
  bool const loops = !has_kernel_for_topk(call.topk);
  bool const are_many = call.tokens * call.hidden / 2 >= int64_t(machine.multiprocessors) * 1024;
  bool const is_wide = bytes == 2 && (are_many || (loops && call.is_permuted));
  int const wide = loops && !call.is_permuted ? 8 : 4;
  bool const wants_one = bytes == 8 && !(loops && call.topk <= 8);
  bool const has_many_registers = is_wide && (loops || (needed_epilogue(call) != Epilogue::kPlain && call.topk > 2));
  Preference preference{is_wide ? wide : wants_one ? 1 : 2, 64, kPrefetchKib, false};
  int const most = has_many_registers ? 128 : 256;
  int64_t const vectors = call.tokens * call.hidden / preference.vector_width;
  while (preference.threads < most && has_many_blocks(vectors, preference.threads, machine)) preference.threads *= 2;
  return preference;
}

}  // namespace moe_cute
