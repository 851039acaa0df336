#include "run.hpp"

#include <array>
#include <stdexcept>

#include "cuda_device.hpp"
#include "expect.hpp"
#include "launch_site.hpp"
#include "subnormals.hpp"

namespace moe_cute {
namespace {

// All that the choice depends on: one word each, so that a comparison is a memcmp.
using ChoiceKey = std::array<int64_t, 17>;

ChoiceKey key_of(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  auto const alignment = [](void const* data) { return int64_t(reinterpret_cast<uintptr_t>(data) % 16); };
  int64_t const kinds = int64_t(call.input_dtype) | int64_t(call.output_dtype) << 4 |
                        int64_t(call.expert_ids.data != nullptr) << 8 | int64_t(call.weights.data != nullptr) << 9 |
                        int64_t(call.shared != nullptr) << 10 | int64_t(call.is_permuted) << 11 |
                        int64_t(call.live_tokens != nullptr) << 12 | int64_t(call.adds_to_output()) << 13 |
                        int64_t(predecessor) << 14;
  return {{kinds, call.tokens, call.topk, call.hidden, call.input_token_stride, call.input_topk_stride,
           call.input_hidden_stride, call.output_token_stride, call.output_hidden_stride, call.shared_token_stride,
           call.shared_hidden_stride, call.rows,
           alignment(call.input) | alignment(call.output) << 8 | alignment(call.shared) << 16, int64_t(machine.backend),
           machine.architecture, machine.multiprocessors, l2_mib(machine)}};
}

// Engines repeat a few shapes for ever: each thread remembers its latest choices. A slot that is taken is overwritten.
Choice remembered_choice(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor) {
  struct Entry {
    ChoiceKey key{};
    Choice choice;
  };
  constexpr std::size_t kEntries = 256;
  thread_local std::array<Entry, kEntries> entries;

  ChoiceKey const key = key_of(call, machine, predecessor);
  uint64_t hash = 0xcbf29ce484222325u;
  for (int64_t word : key) hash = (hash ^ uint64_t(word)) * 0x9e3779b97f4a7c15u;
  Entry& entry = entries[(hash >> 32) % kEntries];
  if (entry.choice.variant == nullptr || entry.key != key) entry = {key, choose(call, machine, predecessor)};
  return entry.choice;
}

Choice choice_for(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor, char const* name) {
  if (name != nullptr) {
    std::string refusal;
    Choice const choice = choose_by_name(name, call, machine, predecessor, refusal);
    if (choice.variant == nullptr)
      throw ArgumentError("variant", std::string(name) + ", but " + refusal,
                          "one of moe_cute.variants() that moe_cute.explain does not refuse, or None");
    return choice;
  }
  Choice const choice = remembered_choice(call, machine, predecessor);
  if (choice.variant == nullptr) {
    throw std::runtime_error(std::string("no variant of this build runs this call on ") + name_of(machine.backend) +
                             "; moe_cute.explain tells why each was refused");
  }
  return choice;
}

char const* run_on_cpu(SumReduceArguments const& arguments, Choice const& choice, Machine const& machine,
                       RunOptions const& options) {
  LaunchShape shape;
  shape.parallel_for = options.parallel_for;
  shape.last_level_cache_bytes = machine.last_level_cache_bytes;
  return choice.variant->launch(arguments, shape);
}

char const* run_on_cuda(SumReduceArguments const& arguments, Choice const& choice, Machine const& machine,
                        LaunchSite const& site, RunOptions const& options) {
  LaunchShape shape;
  shape.threads = options.threads > 0 ? options.threads : choice.threads;
  shape.programmatic_dependent_launch = site.by_attribute();
  // Asking early for cache lines is worth its instructions only while another kernel is still running.
  bool const overlaps = site.predecessor() != Predecessor::kNone;
  int const prefetch_kib = options.threads > 0 ? options.prefetch_kib : choice.prefetch_kib;
  shape.prefetch_kib = overlaps ? prefetch_kib : 0;
  shape.multiprocessors = machine.multiprocessors;
  shape.l2_bytes = machine.l2_bytes;
  shape.stream = options.stream;
  site.connect();
  return choice.variant->launch(arguments, shape);
}

void throw_if_failed(Choice const& choice, char const* error) {
  if (error != nullptr) throw std::runtime_error(std::string(choice.variant->name) + " failed to launch: " + error);
}

}  // namespace

Machine const& machine_of(TensorView const& input) {
  static Machine const host = this_host();
  return input.device == Device::kCuda ? cuda_machine(input.device_index) : host;
}

void run(Call const& call, RunOptions const& options) {
  KeepSubnormals const keep;  // a scale may become one where a launcher rounds it
  SumReduceArguments const arguments = checked(call);
  Machine const& machine = machine_of(call.input);
  bool const is_empty = arguments.tokens == 0 || arguments.hidden == 0;
  if (machine.backend == Backend::kCpu) {
    Choice const choice = choice_for(arguments, machine, Predecessor::kNone, options.variant);
    if (!is_empty) throw_if_failed(choice, run_on_cpu(arguments, choice, machine, options));
    return;
  }
  CudaDeviceGuard const guard(call.input.device_index);
  LaunchSite const site(options.stream, machine, options.programmatic_dependent_launch);
  Choice const choice = choice_for(arguments, machine, site.predecessor(), options.variant);
  if (!is_empty) throw_if_failed(choice, run_on_cuda(arguments, choice, machine, site, options));
}

}  // namespace moe_cute
