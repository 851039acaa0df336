// What a thread of a CPU does: it sums pieces of rows, vector by vector, and the odd elements of each.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu_prefetch.hpp"
#include "instruction_set_body.hpp"
#include "live_slots.hpp"
#include "sum_reduce.hpp"

namespace moe_cute::cpu {

// A long row is cut, so that one token alone can keep all threads busy. A whole number of vectors of any width.
inline constexpr int64_t kPieceOfRow = 8192;

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
  int64_t elements_ahead;    // of a row, asked for before they are read; zero: none

  // Of a row, from element `hidden` on.
  struct Piece {
    int64_t token;
    int64_t hidden;
  };

  // From the last piece to the first: of an input larger than a core's L2 cache, the end was written last and is still
  // there. Just written, float32 [64, 8, 2048] took 55 us in place of 73, [256, 8, 2048] 332 in place of 362 (two
  // cores); inputs far larger than the cache gain nothing and lose nothing.
  static void run(int64_t begin, int64_t end, Work const& given) {
    Work work = given;  // nobody else's, so that no store makes the compiler load it again for the next vector
    work.operands.streaming_store = end - begin >= work.streaming_pieces;
    for (int64_t index = end; index-- > begin;) {
      work.sum_piece(work.piece_at(index), work.piece_at(std::max(index - 1, begin)));
    }
    finish_streaming_stores();
  }

  Piece piece_at(int64_t index) const { return {index / pieces_per_row, index % pieces_per_row * kPieceOfRow}; }

  void sum_piece(Piece const& piece, Piece const& next) const {
    if constexpr (C::kEpilogue != Epilogue::kPlain) {
      if (operands.topk <= LiveSlots<C>::kMost) return sum_live_slots(piece, next);
    }
    auto const sum = [](auto const& operands, auto const& place) {
      sum_reduce_vector(operands, place, finish_of(operands, place));
    };
    if (C::kEpilogue == Epilogue::kPlain && elements_ahead > 0) {
      sum_from_memory(piece, next, sum, [&](int64_t token, int64_t hidden) { prefetch_rows(token, hidden); });
    } else {
      sum_from_cache(piece, sum);
    }
  }

  void sum_live_slots(Piece const& piece, Piece const& next) const {
    LiveSlots<C> const slots(operands, piece.token);
    auto const sum = [&](auto const& operands, auto const& place) { slots.sum(place, finish_of(operands, place)); };
    if (elements_ahead == 0) return sum_from_cache(piece, sum);
    LiveSlots<C> const next_slots(operands, next.token);
    sum_from_memory(piece, next, sum, [&](int64_t token, int64_t hidden) {
      (token == piece.token ? slots : next_slots).prefetch_rows(first_row(token, hidden));
    });
  }

  // Calls `sum(operands, place)` for each vector of a piece, then for each element that no vector covers.
  template <class SumAt>
  void sum_from_cache(Piece piece, SumAt const& sum) const {
    int64_t const end = end_of(piece);
    sum_vectors(piece, std::min(end, whole_vectors), sum, [](int64_t) {});
    sum_elements(piece, end, sum);
  }

  // That, and `prefetch(token, hidden)` for what is `elements_ahead` of each vector: in the same piece, then in the
  // next.
  template <class SumAt, class Prefetch>
  void sum_from_memory(Piece piece, Piece const& next, SumAt const& sum, Prefetch const& prefetch) const {
    int64_t const end = end_of(piece), vectors_end = std::min(end, whole_vectors);
    int64_t const turn = std::max(piece.hidden, vectors_end - elements_ahead);
    struct {
      int64_t end, token, ahead;
    } const parts[] = {{turn, piece.token, elements_ahead}, {vectors_end, next.token, next.hidden - turn}};
    for (auto const& part : parts) {
      sum_vectors(piece, part.end, sum, [&](int64_t hidden) { prefetch(part.token, hidden + part.ahead); });
    }
    sum_elements(piece, end, sum);
  }

  int64_t end_of(Piece const& piece) const { return std::min(piece.hidden + kPieceOfRow, hidden); }

  template <class SumAt, class Before>
  void sum_vectors(Piece& piece, int64_t end, SumAt const& sum, Before const& before) const {
    for (; piece.hidden < end; piece.hidden += C::kVectorWidth) {
      before(piece.hidden);
      auto place = place_of(operands, piece.token, piece.hidden);
      // Else GCC has a pointer for each row, of which there are more than registers: on an EPYC, in turn, float32
      // [2048, 8, 2048] took 2.94 and 3.00 ms so, and 2.58 and 2.70 from one pointer.
      hide(place.input);
      sum(operands, place);
    }
  }

  template <class SumAt>
  void sum_elements(Piece& piece, int64_t end, SumAt const& sum) const {
    for (; piece.hidden < end; ++piece.hidden) sum(single, place_of(single, piece.token, piece.hidden));
  }

  // Where the row of the token's first slot is, or would be. A number and no pointer: it may lie past the input's end.
  uintptr_t first_row(int64_t token, int64_t hidden) const {
    int64_t const element = token * operands.input_token_stride + hidden;
    return reinterpret_cast<uintptr_t>(operands.input) + element * int64_t(sizeof(Element<C::kDType>));
  }

  void prefetch_rows(int64_t token, int64_t hidden) const {
    int const topk = C::kTopK == kAny ? operands.topk : C::kTopK;
    int64_t const row_bytes = operands.input_topk_stride * int64_t(sizeof(Element<C::kDType>));
    uintptr_t row = first_row(token, hidden);
    hide(row);  // as in sum_vectors
    for (int slot = 0; slot < topk; ++slot) prefetch_line(row + slot * row_bytes);
  }
};

}  // namespace moe_cute::cpu
