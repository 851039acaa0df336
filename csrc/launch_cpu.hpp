// The CPU launcher: hands pieces of rows to threads.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu_work.hpp"
#include "launch.hpp"

namespace moe_cute {
namespace cpu {

// A thread whose share of the result is as large as a core's L2 cache turns that over before anyone reads it, so what
// it writes need not pass through. Microseconds of float32 sums past the caches and through them, on a Xeon: 426 and
// 520 where each of 2 cores writes 1 MiB, 602 and 984 where each of 16 does. With the addition that reads the result
// next, there: 539 and 527, 1576 and 1547, and 14058 and 14983 where each of 2 cores writes 16 MiB. Where each of 16
// writes 128 KiB, it is 89 and 59. On an EPYC, whose L2 is half as large, the addition included: 303 and 233 where each
// of 2 cores writes 1 MiB, 935 and 949 with 2, 5319 and 5499 with 8.
inline constexpr int64_t kStreamingBytes = int64_t(1) << 20;

// Where the input does not fit into the last-level caches, its rows are asked for this long before they are read, into
// the L2 cache: it may wait for more lines than the L1 cache, and a core's own prefetcher stops at each page. Both
// cores of an EPYC then read eight streams at 63 to 66 GB/s in place of 51, asked into the L1 cache at 51 to 54, and
// one core at 32 in place of 25; from its L3 cache, sums take 1.15 times as long so. In eight runs in turn, float32
// [2048, 8, 2048] was 1.52 to 1.76 times as fast as torch's sum and scale, and without, 1.41 to 1.50 times.
inline constexpr int64_t kBytesAhead = 4096;

// Whether rows of the result begin at cache lines. Its vectors then fill whole lines: each one line, or, where its
// dtype is not the input's, half a line or two.
inline bool is_aligned_to_lines(SumReduceArguments const& call) {
  int64_t const row_bytes = call.output_token_stride * element_bytes(call.output_dtype);
  return reinterpret_cast<uintptr_t>(call.output) % 64 == 0 && row_bytes % 64 == 0;
}

}  // namespace cpu

template <class C, InstructionSet kInstructionSet>
char const* launch_cpu(SumReduceArguments const& call, LaunchShape const& shape) {
  using Work = cpu::Work<cpu::CompiledFor<C, kInstructionSet>>;
  bool const contiguous_rows = call.input_hidden_stride == 1 && call.output_hidden_stride == 1 &&
                               (call.shared == nullptr || call.shared_hidden_stride == 1);
  int64_t const tokens = call.live_tokens ? std::clamp<int64_t>(*call.live_tokens, 0, call.tokens) : call.tokens;

  Work work{
      operands_of<typename Work::Vectors>(call), operands_of<typename Work::Single>(call), call.hidden, 0, 0, 0, 0};
  work.whole_vectors = contiguous_rows ? call.hidden / C::kVectorWidth * C::kVectorWidth : 0;
  work.pieces_per_row = (call.hidden + cpu::kPieceOfRow - 1) / cpu::kPieceOfRow;
  int64_t const piece = std::max<int64_t>(1, std::min(call.hidden, cpu::kPieceOfRow));
  work.streaming_pieces = cpu::is_aligned_to_lines(call)
                              ? cpu::kStreamingBytes / (piece * element_bytes(call.output_dtype))
                              : std::numeric_limits<int64_t>::max();

  int64_t const row_bytes = call.hidden * element_bytes(C::kDType);
  // As floating point: an expanded input has no end to its size.
  if (double(tokens) * double(call.topk) * double(row_bytes) > double(shape.last_level_cache_bytes)) {
    work.elements_ahead = std::min(cpu::kBytesAhead, row_bytes) / element_bytes(C::kDType);
  }

  int64_t const grain = std::max<int64_t>(1, cpu::kElementsPerTask / (piece * std::max<int64_t>(1, call.topk)));
  shape.parallel_for(tokens * work.pieces_per_row, grain, cpu::run_task<Work, kInstructionSet>, &work);
  return nullptr;
}

}  // namespace moe_cute
