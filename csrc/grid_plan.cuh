// How many threads a launch has, in which order they go through the tokens, and which of them prefetch.
#pragma once

#include <algorithm>

#include "grid.cuh"
#include "launch.hpp"
#include "occupancy.cuh"

namespace moe_cute {

// The first blocks, for they start before the kernel before has ended. The others would ask for each line twice.
template <class C>
int64_t prefetching_blocks(int topk, int threads, LaunchShape const& shape) {
  int64_t const bytes = int64_t(shape.multiprocessors) * shape.prefetch_kib * 1024;
  int64_t const bytes_of_block = int64_t(topk) * C::kVectorWidth * sizeof(Element<C::kDType>) * threads;
  return bytes_of_block == 0 ? 0 : (bytes + bytes_of_block - 1) / bytes_of_block;
}

// An input that does not fit the L2 cache was written from its first token to its last, and of the last much is still
// there. Read backwards, of what another kernel has just written, float16 [1024, 8, 4096] took 18.7 us in place
// of 25.1, bfloat16 [8192, 8, 2048] 93.5 in place of 99.4; smaller ones lost up to 10 %, and cold ones did not care.
inline constexpr double kForwardShareOfL2 = 0.6;

inline bool runs_backwards(double input_bytes, int64_t l2_bytes) { return input_bytes > kForwardShareOfL2 * l2_bytes; }

// The threads of a multiprocessor where the live tokens are counted on the device: those that a batch of decoding has
// vectors for, within bounds. So many that enough loads are on their way when all tokens are live; so few that those
// with nothing to do cost little, and that two launches fit beside each other, of which one is still waiting.
inline constexpr int kLiveBatch = 64;  // tokens
inline constexpr int kFewestLiveThreads = 512;
inline constexpr int kMostLiveThreads = 768;

inline int64_t live_blocks(int64_t vectors_per_row, int threads, int multiprocessors) {
  int64_t const fewest = int64_t(multiprocessors) * kFewestLiveThreads;
  int64_t const most = int64_t(multiprocessors) * kMostLiveThreads;
  return (kLiveBatch * vectors_per_row <= fewest ? fewest : most) / threads;
}

struct GridPlan {
  Grid grid;
  int blocks;
  int threads;  // of a block
};

template <class C>
GridPlan plan_grid(Operands<C> const& operands, int64_t first_token, int64_t tokens, int64_t hidden,
                   LaunchShape const& shape) {
  GridPlan plan{};
  Grid& grid = plan.grid;
  int64_t const vectors_per_row = vectors_of_row<C>(hidden);
  grid.last_overlap = static_cast<int32_t>(vectors_per_row * C::kVectorWidth - hidden);
  grid.vectors_per_row = Divider::by(static_cast<uint32_t>(vectors_per_row));
  grid.vectors = static_cast<int32_t>(tokens * vectors_per_row);
  grid.first_token = static_cast<int32_t>(std::min<int64_t>(first_token, INT32_MAX));  // a count is an int32, too
  int const threads = plan.threads = std::min(shape.threads, kMaxThreads<C>);
  int64_t const resident_threads = int64_t(shape.multiprocessors) * kMinBlocks<C> * kMaxThreads<C>;
  grid.tokens = static_cast<int32_t>(tokens);
  grid.ahead = static_cast<int32_t>(resident_threads / vectors_per_row);
  int64_t blocks = (grid.vectors + threads - 1) / threads;
  double const row_bytes = double(hidden) * sizeof(Element<C::kDType>);
  bool backwards = runs_backwards(row_bytes * tokens * operands.topk, shape.l2_bytes);
  if constexpr (C::kEpilogue == Epilogue::kRouted) {
    if (operands.live_tokens) {
      backwards = false;  // the live ones come first
      blocks = std::min(blocks, live_blocks(vectors_per_row, threads, shape.multiprocessors));
    }
  }
  grid.first_block = backwards ? static_cast<int32_t>((blocks - 1) * threads) : 0;
  grid.to_next_block = backwards ? -threads : threads;
  grid.prefetching_blocks =
      static_cast<int32_t>(std::min(blocks, prefetching_blocks<C>(operands.topk, threads, shape)));
  grid.stride = static_cast<int32_t>(blocks * threads);
  plan.blocks = static_cast<int>(blocks);
  return plan;
}

}  // namespace moe_cute
