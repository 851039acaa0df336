#include "run.hpp"

#include <array>
#include <cstring>
#include <stdexcept>

#include "cuda_capture.hpp"
#include "cuda_device.hpp"

namespace moe_cute {
namespace {

// All that the choice depends on: one word each, so that a comparison is a memcmp.
struct ChoiceKey {
  std::array<int64_t, 16> words;
  bool operator==(ChoiceKey const& other) const { return words == other.words; }
};

ChoiceKey key_of(SumReduceArguments const& call, Machine const& machine) {
  auto const alignment = [](void const* data) { return int64_t(reinterpret_cast<uintptr_t>(data) % 16); };
  int64_t const kinds = int64_t(call.input_dtype) | int64_t(call.output_dtype) << 4 |
                        int64_t(call.expert_ids.data || call.live_tokens) << 8 | int64_t(call.is_permuted) << 11 |
                        int64_t(call.weights.data != nullptr) << 9 | int64_t(call.shared != nullptr) << 10;
  return {{kinds, call.tokens, call.topk, call.hidden, call.input_token_stride, call.input_topk_stride,
           call.input_hidden_stride, call.output_token_stride, call.output_hidden_stride, call.shared_token_stride,
           call.shared_hidden_stride, call.rows,
           alignment(call.input) | alignment(call.output) << 8 | alignment(call.shared) << 16, int64_t(machine.backend),
           machine.architecture, machine.multiprocessors}};
}

// Engines repeat a few shapes for ever: each thread remembers its latest choices. A slot that is taken is overwritten.
Choice remembered_choice(SumReduceArguments const& call, Machine const& machine) {
  struct Entry {
    ChoiceKey key{};
    Choice choice;
  };
  constexpr std::size_t kEntries = 256;
  thread_local std::array<Entry, kEntries> entries;

  ChoiceKey const key = key_of(call, machine);
  uint64_t hash = 0xcbf29ce484222325u;
  for (int64_t word : key.words) hash = (hash ^ uint64_t(word)) * 0x9e3779b97f4a7c15u;
  Entry& entry = entries[(hash >> 32) % kEntries];
  if (entry.choice.variant == nullptr || !(entry.key == key)) entry = {key, choose(call, machine)};
  return entry.choice;
}

Choice choice_for(SumReduceArguments const& call, Machine const& machine, char const* name) {
  if (name != nullptr) {
    std::string refusal;
    Choice const choice = choose_by_name(name, call, machine, refusal);
    if (choice.variant == nullptr)
      throw ArgumentError("variant", std::string(name) + ", but " + refusal,
                          "one that moe_cute.explain does not refuse, or None");
    return choice;
  }
  Choice const choice = remembered_choice(call, machine);
  if (choice.variant == nullptr) {
    throw std::runtime_error(std::string("no variant of this build runs this call on ") + name_of(machine.backend) +
                             "; moe_cute.explain tells why each was refused");
  }
  return choice;
}

LaunchShape cpu_shape(RunOptions const& options) {
  LaunchShape shape;
  shape.parallel_for = options.parallel_for;
  return shape;
}

char const* launch_on_cuda(Call const& call, SumReduceArguments const& arguments, Choice const& choice,
                           Machine const& machine, RunOptions const& options) {
  CudaDeviceGuard const guard(call.input.device_index);
  LaunchShape shape;
  shape.threads = options.threads > 0 ? options.threads : choice.threads;
  shape.programmatic_dependent_launch =
      options.programmatic_dependent_launch && machine.architecture >= 90 && previous_kernel_triggers(options.stream);
  // Asking early for cache lines is worth its instructions only while another kernel is still running.
  shape.prefetch = shape.programmatic_dependent_launch && (options.threads > 0 ? options.prefetch : choice.prefetch);
  shape.multiprocessors = machine.multiprocessors;
  shape.stream = options.stream;
  char const* const error = choice.variant->launch(arguments, shape);
  if (machine.architecture >= 90) note_captured_launch(options.stream);
  return error;
}

}  // namespace

Machine const& machine_of(TensorView const& input) {
  static Machine const host = this_host();
  return input.device == Device::kCuda ? cuda_machine(input.device_index) : host;
}

void run(Call const& call, RunOptions const& options) {
  SumReduceArguments const arguments = checked(call);
  Machine const& machine = machine_of(call.input);
  Choice const choice = choice_for(arguments, machine, options.variant);
  if (arguments.tokens == 0 || arguments.hidden == 0) return;

  char const* const error = machine.backend == Backend::kCuda
                                ? launch_on_cuda(call, arguments, choice, machine, options)
                                : choice.variant->launch(arguments, cpu_shape(options));
  if (error != nullptr) throw std::runtime_error(std::string(choice.variant->name) + " failed to launch: " + error);
}

}  // namespace moe_cute
