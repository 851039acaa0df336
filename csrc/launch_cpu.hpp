// The CPU launcher: loops over the vectors that a GPU would give to threads, and over the odd elements of each row.
#pragma once

#include <algorithm>
#include <limits>

#include "instruction_set_body.hpp"
#include "launch.hpp"
#include "live_slots.hpp"
#include "sum_reduce.hpp"

namespace moe_cute {
namespace cpu {

// A long row is cut, so that one token alone can keep all threads busy. A whole number of vectors of any width.
inline constexpr int64_t kPieceOfRow = 8192;

// A thread whose share of the result is as large as a core's L2 cache turns that over before anyone reads it, so what
// it writes need not pass through. Microseconds of float32 sums past the caches and through them, on a Xeon: 426 and
// 520 where each of 2 cores writes 1 MiB, 602 and 984 where each of 16 does. With the addition that reads the result
// next, there: 539 and 527, 1576 and 1547, and 14058 and 14983 where each of 2 cores writes 16 MiB. Where each of 16
// writes 128 KiB, it is 89 and 59. On an EPYC, whose L2 is half as large, the addition included: 303 and 233 where each
// of 2 cores writes 1 MiB, 935 and 949 with 2, 5319 and 5499 with 8.
inline constexpr int64_t kStreamingBytes = int64_t(1) << 20;

// Whether rows of the result begin at cache lines. Its vectors then fill whole lines: each one line, or, where its
// dtype is not the input's, half a line or two.
inline bool is_aligned_to_lines(SumReduceArguments const& call) {
  int64_t const row_bytes = call.output_token_stride * element_bytes(call.output_dtype);
  return reinterpret_cast<uintptr_t>(call.output) % 64 == 0 && row_bytes % 64 == 0;
}

// What this thread wrote past the caches is there before what it does next: handing its work in, for one.
inline void finish_streaming_stores() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// A configuration, as it is compiled for one instruction set.
template <class C, InstructionSet kInstructionSet_>
struct CompiledFor : C {
  static constexpr InstructionSet kInstructionSet = kInstructionSet_;
};

template <class C>
struct Work {
  using Vectors = C;
  // For what no vector covers.
  using Single = CompiledFor<Configuration<C::kDType, kAny, C::kTopK, 1, C::kEpilogue>, C::kInstructionSet>;

  Operands<Vectors> operands;
  Operands<Single> single;
  int64_t hidden;
  int64_t whole_vectors;  // elements of a row that vectors cover
  int64_t pieces_per_row;
  int64_t streaming_pieces;  // as a thread's share: from so many on, its results go past the caches

  // From the last piece to the first: of an input larger than a core's L2 cache, the end was written last and is still
  // there. Just written, float32 [64, 8, 2048] took 55 us in place of 73, [256, 8, 2048] 332 in place of 362 (two
  // cores); inputs far larger than the cache gain nothing and lose nothing.
  static void run(int64_t begin, int64_t end, Work const& given) {
    Work work = given;  // nobody else's, so that no store makes the compiler load it again for the next vector
    work.operands.streaming_store = end - begin >= work.streaming_pieces;
    for (int64_t piece = end; piece-- > begin;) {
      int64_t const token = piece / work.pieces_per_row;
      int64_t const hidden = piece % work.pieces_per_row * kPieceOfRow;
      if constexpr (C::kEpilogue != Epilogue::kPlain) {
        if (work.operands.topk <= LiveSlots<C>::kMost) {
          LiveSlots<C> const slots(work.operands, token);
          work.sum_piece(token, hidden, [&](auto const& operands, auto const& place) {
            slots.sum(place, finish_of(operands, place));
          });
          continue;
        }
      }
      work.sum_piece(token, hidden, [](auto const& operands, auto const& place) {
        sum_reduce_vector(operands, place, finish_of(operands, place));
      });
    }
    finish_streaming_stores();
  }

  // Calls `sum(operands, place)` for each vector of a piece of a row, then for each element that no vector covers.
  template <class SumAt>
  void sum_piece(int64_t token, int64_t hidden, SumAt const& sum) const {
    int64_t const piece_end = std::min(hidden + kPieceOfRow, this->hidden);
    int64_t const vectors_end = std::min(piece_end, whole_vectors);
    for (; hidden < vectors_end; hidden += C::kVectorWidth) sum(operands, place_of(operands, token, hidden));
    for (; hidden < piece_end; ++hidden) sum(single, place_of(single, token, hidden));
  }
};

}  // namespace cpu

template <class C, InstructionSet kInstructionSet>
char const* launch_cpu(SumReduceArguments const& call, LaunchShape const& shape) {
  using Work = cpu::Work<cpu::CompiledFor<C, kInstructionSet>>;
  bool const contiguous_rows = call.input_hidden_stride == 1 && call.output_hidden_stride == 1 &&
                               (call.shared == nullptr || call.shared_hidden_stride == 1);
  int64_t const tokens = call.live_tokens ? std::clamp<int64_t>(*call.live_tokens, 0, call.tokens) : call.tokens;

  Work work{operands_of<typename Work::Vectors>(call), operands_of<typename Work::Single>(call), call.hidden, 0, 0, 0};
  work.whole_vectors = contiguous_rows ? call.hidden / C::kVectorWidth * C::kVectorWidth : 0;
  work.pieces_per_row = (call.hidden + cpu::kPieceOfRow - 1) / cpu::kPieceOfRow;
  int64_t const piece = std::max<int64_t>(1, std::min(call.hidden, cpu::kPieceOfRow));
  work.streaming_pieces = cpu::is_aligned_to_lines(call)
                              ? cpu::kStreamingBytes / (piece * element_bytes(call.output_dtype))
                              : std::numeric_limits<int64_t>::max();

  int64_t const grain = std::max<int64_t>(1, cpu::kElementsPerTask / (piece * std::max<int64_t>(1, call.topk)));
  shape.parallel_for(tokens * work.pieces_per_row, grain, cpu::run_task<Work, kInstructionSet>, &work);
  return nullptr;
}

}  // namespace moe_cute
