// Runs the CUDA kernels that guess before `griddepcontrol.wait`, and some that do not, on the host: a warp of 32
// threads, whose slots are neighbours or not, behind a kernel that has not yet written all or some of the operands, and
// writes them at the wait.
//
// With --late they are written after the kernel, and the run must be caught.
#include <cute/tensor_impl.hpp>
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>
#undef __device__
#undef __forceinline__
#undef __global__
#undef __grid_constant__
#undef __launch_bounds__
#include "warp_of_threads.hpp"

#include <cmath>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "grid_plan.cuh"
#include "sum_reduce_kernel.cuh"

using namespace moe_cute;

namespace {

unsigned const g_seed = std::random_device{}();
std::mt19937 g_random(g_seed);
bool g_late = false;
long g_checked = 0;
long g_wrong = 0;

int below(int end) { return static_cast<int>(g_random() % static_cast<unsigned>(end)); }
float number() { return static_cast<float>(below(2001) - 1000) / 250; }

// What the kernel before has not yet written when this one starts: nothing, some slots' contents, all of the operands,
// or one of them alone.
enum class Unwritten { kNothing, kSome, kAll, kMap, kIds, kRows, kWeights, kCount, kLast };

template <class T>
struct Operand {
  std::vector<T> values;  // as the kernel sees them
  std::vector<T> written;

  template <class F>
  Operand(int64_t count, F const& value) {
    for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<T>(value()));
    values.shrink_to_fit();  // so that a read past the end is one past the allocation's
    written = values;
  }
  template <class F>
  void spoil(bool some, F const& value) {
    for (T& each : values) {
      if (!some || below(8) == 0) each = static_cast<T>(value());
    }
  }
  void write() { std::copy(written.begin(), written.end(), values.begin()); }
};

template <class C>
struct Trial {
  using T = Element<C::kDType>;
  static constexpr int K = C::kTopK;
  static constexpr bool kRouted = C::kEpilogue == Epilogue::kRouted;
  static constexpr int kExperts = 12;

  int const tokens;
  int const hidden;
  bool const permuted = C::kEpilogue == Epilogue::kPermuted || (kRouted && below(4) != 0);
  bool const wide_rows = below(2);
  int const apart = below(4) ? 1 : 3;      // slots: neighbours, or not
  int const weights = below(3);            // none, float32, of the input's dtype
  int const ids = kRouted ? below(3) : 0;  // none, without a map, with one
  bool const shared = below(2);
  bool const counted = kRouted && below(2);
  int const rows = permuted ? tokens * K + 3 : tokens * K;

  Operand<T> input{int64_t(rows) * hidden, number};
  Operand<int64_t> row64{tokens * K * apart,
                         [this] { return below(16) ? below(rows + 4) - 2 : (int64_t(1) << 40) + 1; }};
  Operand<int32_t> row32{tokens * K * apart, [this] { return below(rows + 4) - 2; }};
  Operand<float> weight32{tokens * K * apart, number};
  Operand<T> weight{tokens * K * apart, number};
  Operand<int64_t> expert{tokens * K * apart, [] { return below(kExperts + 4) - 2; }};
  Operand<int32_t> map{kExperts, [] { return below(2) ? below(5) : -1; }};
  Operand<T> added{int64_t(tokens) * hidden, number};
  Operand<int32_t> live{1, [this] { return below(tokens + 2); }};
  std::vector<T> output = std::vector<T>(int64_t(tokens) * hidden, T(777.0f));

  SumReduceArguments call() {
    SumReduceArguments a;
    a.input = input.values.data();
    a.output = output.data();
    a.tokens = tokens, a.topk = K, a.hidden = hidden, a.rows = rows;
    a.input_dtype = a.output_dtype = C::kDType;
    a.scale = 2.5;
    a.input_token_stride = permuted ? hidden : int64_t(K) * hidden;
    a.input_topk_stride = a.output_token_stride = a.shared_token_stride = hidden;
    if (weights == 1) a.weights = {weight32.values.data(), K * apart, apart, true};
    if (weights == 2) a.weights = {weight.values.data(), K * apart, apart, sizeof(T) == 4};
    a.is_permuted = permuted;
    if (permuted && wide_rows) a.rows_of_slots = {row64.values.data(), K * apart, apart, true};
    if (permuted && !wide_rows) a.rows_of_slots = {row32.values.data(), K * apart, apart, false};
    if (ids) a.expert_ids = {expert.values.data(), K * apart, apart, true};
    if (ids == 2) a.has_expert_map = true, a.expert_map = map.values.data(), a.experts = kExperts;
    if (shared) a.shared = added.values.data();
    if (counted) a.live_tokens = live.values.data();
    return a;
  }

  void spoil(Unwritten what) {
    bool const some = what == Unwritten::kSome;
    bool const all = what == Unwritten::kAll;
    if (some || all) input.spoil(some, number), added.spoil(some, number);
    if (some || all || what == Unwritten::kRows) {
      row64.spoil(some, [this] { return below(rows); });
      row32.spoil(some, [this] { return below(rows); });
    }
    if (some || all || what == Unwritten::kWeights) weight32.spoil(some, number), weight.spoil(some, number);
    if (some || all || what == Unwritten::kIds) expert.spoil(some, [] { return below(kExperts); });
    if (all || what == Unwritten::kMap) map.spoil(below(2), [] { return below(2) - 1; });
    if (all || what == Unwritten::kCount) live.spoil(false, [this] { return below(tokens + 2); });
  }
  void write() {
    input.write(), added.write(), row64.write(), row32.write(), weight32.write(), weight.write(), expert.write();
    map.write(), live.write();
  }

  // One warp after another; each finds the operands unwritten.
  void launch(LaunchShape const& shape, Unwritten what) {
    auto const operands = operands_of<C>(call());
    GridPlan const plan = plan_grid(operands, 0, tokens, hidden, shape);
    warp::at_wait = [this] {
      if (!g_late) write();
    };
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < kWarp; ++lane) {
      lanes.emplace_back([&, lane] {
        warp::lane = lane;
        for (int first = 0; first < plan.blocks * plan.threads; first += kWarp) {
          if (lane == 0) spoil(what);
          warp::meet();
          blockIdx.x = first / plan.threads;
          threadIdx.x = first % plan.threads + lane;
          sum_reduce_kernel<C>(operands, plan.grid);
          warp::meet();
        }
      });
    }
    for (std::thread& lane : lanes) lane.join();
    write();
  }

  // Negative: the slot is skipped.
  int64_t row_of(int slot) const {
    int64_t const id = expert.written[slot * apart];
    if (ids && id < 0) return -1;
    if (ids == 2 && (id >= kExperts || map.written[id] < 0)) return -1;
    if (!permuted) return slot;
    int64_t const row = wide_rows ? row64.written[slot * apart] : row32.written[slot * apart];
    return row < rows ? row : -1;
  }

  T expected(int token, int column) const {
    if (counted && token >= live.written[0]) return T(777.0f);
    float sum = 0;
    for (int slot = token * K; slot < (token + 1) * K; ++slot) {
      int64_t const row = row_of(slot);
      float const own = to_accumulator(weight.written[slot * apart]);
      float const by = weights == 0 ? 1 : weights == 1 ? weight32.written[slot * apart] : own;
      if (row >= 0) sum = std::fma(by, to_accumulator(input.written[row * hidden + column]), sum);
    }
    float const plus = to_accumulator(added.written[int64_t(token) * hidden + column]);
    return from_accumulator<T>(shared ? std::fma(sum, 2.5f, plus) : sum * 2.5f);
  }

  void check() const {
    for (int token = 0; token < tokens; ++token) {
      for (int column = 0; column < hidden; ++column, ++g_checked) {
        T const wanted = expected(token, column);
        g_wrong += std::memcmp(&output[int64_t(token) * hidden + column], &wanted, sizeof(T)) != 0;
      }
    }
  }
};

template <DType kDType, int kTopK, int kVectorWidth, Epilogue kEpilogue, Alignment kAlignment = Alignment::kVector>
void run() {
  using C = Configuration<kDType, kAny, kTopK, kVectorWidth, kEpilogue, kAlignment>;
  int const more = kAlignment == Alignment::kElement;  // its last two vectors overlap
  LaunchShape shape;
  shape.multiprocessors = 3;  // so that a count of live tokens makes several rounds
  for (int what = 0; what < static_cast<int>(Unwritten::kLast); ++what) {
    for (int vectors : {64, 41}) {  // a row of whole warps, and one that ends within a cache line
      for (int tokens : {1, 6}) {
        shape.threads = 64 << below(2);
        shape.prefetch_kib = 40 * (below(8) != 0);
        shape.l2_bytes = below(2) << 30;  // forwards or backwards
        Trial<C> trial{tokens, vectors * kVectorWidth + more};
        trial.launch(shape, static_cast<Unwritten>(what));
        trial.check();
      }
    }
  }
}

// As many blocks prefetch as ask for so much, or all; none where there is nothing to ask for, or it is not wanted.
void check_prefetching_blocks() {
  using C = Configuration<DType::kBFloat16, kAny, kAny, 8, Epilogue::kPlain>;
  constexpr int kTokens = 64, kHidden = 4096;
  for (int topk : {0, 1, 8}) {
    for (int kib : {0, 1, 24, 1024}) {
      LaunchShape shape;
      shape.multiprocessors = 3;
      shape.prefetch_kib = kib;
      Operands<C> operands{};
      operands.topk = topk;
      GridPlan const plan = plan_grid(operands, 0, kTokens, kHidden, shape);
      int64_t const wanted = int64_t(3) * kib * 1024, of_block = int64_t(topk) * plan.threads * 16;
      int64_t const blocks = plan.grid.prefetching_blocks;
      bool const is_least = blocks == 0 || (blocks - 1) * of_block < wanted;
      bool const is_enough = blocks == plan.blocks || blocks * of_block >= wanted || of_block == 0;
      ++g_checked;
      if (blocks < 0 || blocks > plan.blocks || !is_least || !is_enough || (blocks > 0 && of_block == 0)) ++g_wrong;
    }
  }
}

}  // namespace

int main(int count, char**) {
  g_late = count > 1;
  check_prefetching_blocks();
  run<DType::kBFloat16, 8, 4, Epilogue::kPermuted>();
  run<DType::kBFloat16, 8, 2, Epilogue::kPermuted>();
  run<DType::kFloat16, 10, 4, Epilogue::kPermuted>();
  run<DType::kFloat32, 2, 2, Epilogue::kPermuted>();
  run<DType::kBFloat16, 8, 4, Epilogue::kRouted>();
  run<DType::kFloat16, 9, 4, Epilogue::kRouted>();
  run<DType::kFloat32, 8, 2, Epilogue::kRouted>();
  run<DType::kBFloat16, 8, 4, Epilogue::kWeighted>();
  run<DType::kFloat16, 10, 2, Epilogue::kWeighted>();
  run<DType::kBFloat16, 8, 8, Epilogue::kWeighted>();
  run<DType::kBFloat16, 8, 8, Epilogue::kPermuted>();
  run<DType::kBFloat16, 8, 8, Epilogue::kRouted>();
  run<DType::kBFloat16, 8, 2, Epilogue::kWeighted, Alignment::kElement>();
  run<DType::kFloat16, 10, 4, Epilogue::kPermuted, Alignment::kElement>();
  run<DType::kFloat16, 1, 4, Epilogue::kWeighted, Alignment::kElement>();
  run<DType::kBFloat16, 8, 4, Epilogue::kWeighted, Alignment::kElement>();
  run<DType::kFloat32, 2, 2, Epilogue::kPermuted, Alignment::kElement>();
  std::printf("seed %u: %ld elements, %ld of them wrong\n", g_seed, g_checked, g_wrong);
  return g_wrong ? 1 : 0;
}
