// Runs the gradients' kernels of every instruction set that this processor has over odd sizes and strides, in buffers
// of exactly the bytes that the call may touch: made for AddressSanitizer and UndefinedBehaviorSanitizer. Instruction
// sets must agree too.
//
// With --short each grad is one element short, and the run must be caught.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gradient_cpu.hpp"

using namespace moe_cute;

namespace {

bool g_short = false;
int g_calls = 0;

void serially(int64_t count, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  for (int64_t item = 0; item < count; ++item) body(item, item + 1, context);
}

// Bytes of which every dtype makes ordinary numbers: no NaN, whose payload would be nobody's promise.
class Buffer {
 public:
  Buffer(int64_t elements, int bytes)
      : bytes_(std::max<int64_t>(0, elements) * bytes), data_(new unsigned char[bytes_]) {
    for (int64_t at = 0; at < bytes_; ++at) data_[at] = static_cast<unsigned char>(0x3c + (at * 7 + at / 5) % 5);
  }
  void* first() const { return data_.get(); }
  std::string content() const { return {reinterpret_cast<char const*>(data_.get()), static_cast<size_t>(bytes_)}; }

 private:
  int64_t bytes_;
  std::unique_ptr<unsigned char[]> data_;  // not a vector: its end is the allocation's
};

constexpr int64_t kTokens = 3, kTopK = 2, kRows = 4;
// Slots of three tokens: rows 1 and 3 are read once, row 0 twice, row 2 never; one slot is skipped, one past the end.
constexpr int64_t kRowOfSlot[] = {0, 3, -1, 0, 1, kRows};
constexpr int64_t kSlotOrder[] = {2, 0, 3, 4, 1};  // without the slot past the end
constexpr int64_t kFirstSlot[] = {1, 3, 4, 4, 5};

template <DType kDType, InstructionSet kInstructionSet>
std::string run(int64_t hidden, int64_t stride, bool grad_is_accumulator) {
  constexpr int kBytes = element_bytes(kDType), kSumBytes = kDType == DType::kFloat64 ? 8 : 4;
  int64_t const row = (hidden - 1) * stride + 1;
  Buffer const grad(kTokens * row - g_short, grad_is_accumulator ? kSumBytes : kBytes), input(kRows * row, kBytes);
  Buffer const weights(kTokens * kTopK, kSumBytes), products(kTokens * kTopK, kSumBytes),
      output(kRows * hidden, kBytes);
  LaunchShape shape;
  shape.parallel_for = serially;

  SlotDotArguments dot;
  dot.grad = grad.first();
  dot.input = input.first();
  dot.row_of_slot = kRowOfSlot;
  dot.products = products.first();
  dot.slots = kTokens * kTopK;
  dot.rows = kRows;
  dot.topk = kTopK;
  dot.hidden = hidden;
  dot.grad_token_stride = dot.input_token_stride = row;
  dot.grad_hidden_stride = dot.input_hidden_stride = stride;
  dot.grad_is_accumulator = grad_is_accumulator;
  dot.scale = 2.5;
  launch_gradient_cpu<SlotDot, kDType, kInstructionSet>(dot, shape);

  RowSumArguments sum;
  sum.grad = grad.first();
  sum.weights = weights.first();
  sum.slot_order = kSlotOrder;
  sum.first_slot = kFirstSlot;
  sum.output = output.first();
  sum.rows = kRows;
  sum.topk = kTopK;
  sum.hidden = hidden;
  sum.grad_token_stride = row;
  sum.grad_hidden_stride = stride;
  sum.grad_is_accumulator = grad_is_accumulator;
  sum.scale = 2.5;
  launch_gradient_cpu<RowSum, kDType, kInstructionSet>(sum, shape);

  g_calls += 2;
  return products.content() + output.content();
}

template <DType kDType>
void compare() {
  // One element; around what 32 lanes take at once, of each dtype; several times that.
  for (int64_t const hidden : {1, 7, 63, 64, 65, 128, 255, 256, 257, 1031}) {
    for (int64_t const stride : {1, 3}) {
      for (bool const grad_is_accumulator : {false, true}) {
        std::string const expected = run<kDType, InstructionSet::kBaseline>(hidden, stride, grad_is_accumulator);
        std::vector<std::string> others;
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
          others.push_back(run<kDType, InstructionSet::kAvx2>(hidden, stride, grad_is_accumulator));
        }
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
          others.push_back(run<kDType, InstructionSet::kAvx512>(hidden, stride, grad_is_accumulator));
        }
#endif
        for (std::string const& other : others) {
          if (other == expected) continue;
          std::fprintf(stderr, "dtype %d, hidden %d: other bits\n", int(kDType), int(hidden));
          std::exit(1);
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  g_short = argc > 1 && std::strcmp(argv[1], "--short") == 0;
  compare<DType::kFloat16>();
  compare<DType::kBFloat16>();
  compare<DType::kFloat32>();
  compare<DType::kFloat64>();
  std::printf("%d calls\n", g_calls);
}
