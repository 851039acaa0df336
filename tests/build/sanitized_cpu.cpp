// Runs every CPU variant that this processor can run over odd sizes, strides and offsets, in buffers of exactly the
// bytes that the call may touch: made for AddressSanitizer and UndefinedBehaviorSanitizer. Instruction sets must agree
// too.
//
// With --short each input is one element short, and the run must be caught.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "variant.hpp"

using namespace moe_cute;

namespace {

bool g_short = false;

// Two shares, one after the other.
void serially(int64_t count, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  body(0, count / 2, context);
  body(count / 2, count, context);
}

// Bytes of which every dtype makes ordinary numbers: no NaN, whose payload would be nobody's promise.
class Buffer {
 public:
  Buffer(int64_t elements, int64_t offset, int bytes, bool is_short = false)
      : bytes_(std::max<int64_t>(0, (elements - is_short + offset) * bytes)), data_(new unsigned char[bytes_]) {
    for (int64_t at = 0; at < bytes_; ++at) data_[at] = static_cast<unsigned char>(0x3c + (at * 7 + at / 5) % 5);
    first_ = data_.get() + offset * bytes;
  }
  void* first() const { return first_; }
  std::string content() const { return {reinterpret_cast<char const*>(data_.get()), static_cast<size_t>(bytes_)}; }

 private:
  int64_t bytes_;
  std::unique_ptr<unsigned char[]> data_;  // not a vector: its end is the allocation's
  unsigned char* first_;
};

struct Case {
  int64_t tokens, topk, hidden;
  int64_t padding;  // elements between topk rows, and between tokens
  int64_t hidden_stride;
  int64_t offset;     // elements, of the first from an aligned address
  bool fused;         // everything that the epilogue has, else nothing but the sum
  bool wide_indices;  // int64, else int32
};

template <class T>
std::vector<T> indices(int64_t count, int64_t limit) {
  std::vector<T> values(count);
  for (int64_t at = 0; at < count; ++at) values[at] = static_cast<T>(at * 5 % (limit + 2) - 1);  // -1 and `limit` too
  values.shrink_to_fit();
  return values;
}

std::string run(Variant const& variant, Case const& c, DType output_dtype, int64_t last_level_cache_bytes) {
  int const bytes = element_bytes(variant.dtype), output_bytes = element_bytes(output_dtype);
  bool const routed = c.fused && variant.epilogue == Epilogue::kRouted;
  bool const permuted = variant.epilogue == Epilogue::kPermuted || (c.fused && variant.epilogue == Epilogue::kRouted);
  bool const weighted = c.fused && variant.epilogue >= Epilogue::kWeighted;

  SumReduceArguments call;
  call.tokens = c.tokens;
  call.topk = c.topk;
  call.hidden = c.hidden;
  call.input_dtype = variant.dtype;
  call.output_dtype = output_dtype;
  call.scale = 2.5;
  call.is_permuted = permuted;
  call.input_hidden_stride = c.hidden_stride;
  call.input_topk_stride = (c.hidden - 1) * c.hidden_stride + 1 + c.padding;
  call.input_token_stride = permuted ? call.input_topk_stride : c.topk * call.input_topk_stride + c.padding;
  call.output_hidden_stride = c.hidden_stride;
  call.output_token_stride = (c.hidden - 1) * c.hidden_stride + 1 + c.padding;

  int64_t const slots = c.tokens * c.topk;
  int64_t const row = (c.hidden - 1) * c.hidden_stride + 1;
  call.rows = slots;
  int64_t const input_elements =
      slots == 0 ? 0
      : permuted ? (slots - 1) * call.input_token_stride + row
                 : (c.tokens - 1) * call.input_token_stride + (c.topk - 1) * call.input_topk_stride + row;
  int64_t const output_elements = (c.tokens - 1) * call.output_token_stride + row;
  Buffer const input(input_elements, c.offset, bytes, g_short), output(output_elements, c.offset, output_bytes);
  Buffer const weights(slots, 0, c.wide_indices ? bytes : 4), shared(output_elements, c.offset, output_bytes);
  call.input = input.first();
  call.output = output.first();
  if (weighted) {
    call.weights = {weights.first(), c.topk, 1, !c.wide_indices};
    call.shared = shared.first();
    call.shared_token_stride = call.output_token_stride;
    call.shared_hidden_stride = call.output_hidden_stride;
  }

  constexpr int64_t kExperts = 4;
  auto const ids32 = indices<int32_t>(slots, kExperts), rows32 = indices<int32_t>(slots, call.rows);
  auto const ids64 = indices<int64_t>(slots, kExperts), rows64 = indices<int64_t>(slots, call.rows);
  std::vector<int32_t> const map{0, -1, 1, 2};
  auto const live = std::make_unique<int32_t>(static_cast<int32_t>(c.tokens - 1));
  auto const matrix = [&c](auto const& narrow, auto const& wide) -> IndexMatrix {
    void const* const data = c.wide_indices ? static_cast<void const*>(wide.data()) : narrow.data();
    return {data, c.topk, 1, c.wide_indices};
  };
  if (permuted) call.rows_of_slots = matrix(rows32, rows64);
  if (routed) {
    call.expert_ids = matrix(ids32, ids64);
    call.has_expert_map = true;
    call.expert_map = map.data();
    call.experts = kExperts;
    call.live_tokens = live.get();
  }

  LaunchShape shape;
  shape.parallel_for = serially;
  shape.last_level_cache_bytes = last_level_cache_bytes;
  if (char const* const error = variant.launch(call, shape)) {
    std::fprintf(stderr, "%s: %s\n", variant.name, error);
    std::exit(1);
  }
  return output.content();
}

bool runs_here(Variant const& variant) {
  if (variant.backend != Backend::kCpu || variant.launch == nullptr) return false;
#if defined(__x86_64__)
  if (variant.instruction_set == InstructionSet::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
  if (variant.instruction_set == InstructionSet::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return true;
}

std::vector<Case> cases_of(Variant const& variant) {
  std::vector<Case> cases;
  std::vector<int64_t> const topks =
      variant.topk == kAny ? std::vector<int64_t>{0, 1, 3, 5} : std::vector<int64_t>{variant.topk};
  for (int64_t const topk : topks) {
    for (bool const fused : {false, true}) {
      // One element, a vector less, more, and exactly; one past a piece of a row.
      for (int64_t const hidden : {1, 7, 31, 32, 33, 64, 130, 8193}) {
        cases.push_back({3, topk, hidden, 0, 1, 0, fused, false});
        cases.push_back({3, topk, hidden, 1, 1, 1, fused, true});
      }
      cases.push_back({2, topk, 37, 2, 3, 1, fused, false});
    }
  }
  // Large and aligned enough for stores past the caches: 4 MiB.
  if (variant.topk == 1) cases.push_back({520, 1, 4096, 0, 1, 0, false, false});
  return cases;
}

}  // namespace

int main(int argc, char** argv) {
  g_short = argc > 1 && std::strcmp(argv[1], "--short") == 0;
  std::map<std::tuple<DType, int, Epilogue, size_t, DType>, std::string> expected;
  int calls = 0;
  for (Variant const& variant : variants()) {
    if (!runs_here(variant)) continue;
    std::vector<Case> const cases = cases_of(variant);
    for (size_t number = 0; number < cases.size(); ++number) {
      std::vector<DType> output_dtypes{variant.dtype};
      if (variant.epilogue == Epilogue::kRouted && element_bytes(variant.dtype) == 2) {
        output_dtypes.push_back(DType::kFloat32);
      }
      for (DType const output_dtype : output_dtypes) {
        // As if the input fitted into the caches, and as if it did not.
        for (int64_t const cache_bytes : {std::numeric_limits<int64_t>::max(), int64_t(0)}) {
          std::string const bits = run(variant, cases[number], output_dtype, cache_bytes);
          auto const key = std::make_tuple(variant.dtype, variant.topk, variant.epilogue, number, output_dtype);
          auto const [first, is_first] = expected.emplace(key, bits);
          if (!is_first && first->second != bits) {
            std::fprintf(stderr, "%s: case %zu: other bits than the call before\n", variant.name, number);
            return 1;
          }
          ++calls;
        }
      }
    }
  }
  std::printf("%d calls\n", calls);
  return calls == 0;
}
