// What sum_reduce accepts. Nothing is launched or written before all of this has passed.
#include <cmath>
#include <limits>
#include <string>

#include "call.hpp"
#include "expect.hpp"
#include "overlap.hpp"

namespace moe_cute {
namespace {

// A loop over slots counts them in an int32, up to 16 at a time, and goes on to the first count past the last slot.
constexpr int64_t kMostTopk = std::numeric_limits<int32_t>::max() - 32;

void check_input(Call const& call) {
  expect_ranks(call.input, call.inv_permuted_idx);
  expect_floating("input", call.input);
  if (call.input.device == Device::kOther) throw ArgumentError("input", "on another device", "cpu or cuda");
}

void expect_own_memory(TensorView const& output, char const* other_name, TensorView const& other) {
  if (other.given && may_overlap(other, output)) {
    throw ArgumentError("output", std::string("in memory that ") + other_name + " also uses", "memory of its own");
  }
}

void check_output(Call const& call, int64_t tokens, int64_t hidden) {
  TensorView const &input = call.input, &output = call.output;
  expect_device("output", output, "input", input);
  expect_shape("output", output, {tokens, hidden}, "[tokens, hidden]");
  bool const same = output.type == input.type;
  bool const widened = output.type == Type::kFloat32 && input.type != Type::kFloat64;
  bool const narrowed =
      input.type == Type::kFloat32 && (output.type == Type::kFloat16 || output.type == Type::kBFloat16);
  if (!is_floating(output.type) || !(same || widened || narrowed)) {
    std::string const allowed = input.type == Type::kFloat64 ? "float64, as the input"
                                : input.type == Type::kFloat32
                                    ? "float32 as the input, float16 or bfloat16"
                                    : std::string(type_name_of(input)) + " as the input, or float32";
    refuse_type("output", output, allowed);
  }
  if (overlaps_itself(output)) {
    throw ArgumentError("output", "a tensor whose elements share memory (an expanded or overlapping view)",
                        "one place in memory for each element");
  }
  expect_own_memory(output, "the input", input);
}

void check_topk_matrix(char const* name, TensorView const& matrix, Call const& call, int64_t tokens, int64_t topk) {
  expect_device(name, matrix, "input", call.input);
  expect_shape(name, matrix, {tokens, topk}, "[tokens, topk]");
}

void check_routing(Call const& call, int64_t tokens, int64_t topk) {
  if (call.topk_weights.given) {
    check_topk_matrix("topk_weights", call.topk_weights, call, tokens, topk);
    if (call.topk_weights.type != Type::kFloat32 && call.topk_weights.type != call.input.type) {
      refuse_type("topk_weights", call.topk_weights, std::string("float32 or the input's ") + type_name_of(call.input));
    }
  }
  if (call.topk_ids.given) {
    check_topk_matrix("topk_ids", call.topk_ids, call, tokens, topk);
    expect_index("topk_ids", call.topk_ids);
  }
  if (call.inv_permuted_idx.given) {
    check_topk_matrix("inv_permuted_idx", call.inv_permuted_idx, call, tokens, topk);
    expect_index("inv_permuted_idx", call.inv_permuted_idx);
  }
  if (call.expert_map.given) {
    if (!call.topk_ids.given) throw ArgumentError("expert_map", "given without topk_ids", "both, or topk_ids alone");
    expect_device("expert_map", call.expert_map, "input", call.input);
    expect_rank("expert_map", call.expert_map, 1, "[experts]");
    expect_type("expert_map", call.expert_map, Type::kInt32);
  }
}

void check_shared(Call const& call, int64_t tokens, int64_t hidden) {
  TensorView const& shared = call.shared_output;
  if (!shared.given) return;
  expect_device("shared_output", shared, "input", call.input);
  expect_shape("shared_output", shared, {tokens, hidden}, "[tokens, hidden]");
  if (shared.type != call.output.type) {
    refuse_type("shared_output", shared, std::string("the output's ") + type_name_of(call.output));
  }
  if (!same_view(shared, call.output) && may_overlap(shared, call.output)) {
    throw ArgumentError("shared_output", "in part of the output's memory", "the output itself, or memory of its own");
  }
}

void check_num_tokens(Call const& call) {
  TensorView const& count = call.num_tokens;
  if (!count.given) return;
  expect_device("num_tokens", count, "input", call.input);
  expect_one_element("num_tokens", count);
  expect_type("num_tokens", count, Type::kInt32);
}

// What is read while the output is written.
void check_memory(Call const& call) {
  expect_own_memory(call.output, "topk_weights", call.topk_weights);
  expect_own_memory(call.output, "topk_ids", call.topk_ids);
  expect_own_memory(call.output, "expert_map", call.expert_map);
  expect_own_memory(call.output, "inv_permuted_idx", call.inv_permuted_idx);
  expect_own_memory(call.output, "num_tokens", call.num_tokens);
}

IndexMatrix index_matrix(TensorView const& view) {
  return {view.data, view.strides[0], view.strides[1], view.type == Type::kInt64};
}

}  // namespace

void expect_ranks(TensorView const& input, TensorView const& inv_permuted_idx) {
  bool const permuted = inv_permuted_idx.given;
  expect_rank("input", input, permuted ? 2 : 3,
              permuted ? "[rows, hidden], since inv_permuted_idx is given" : "[tokens, topk, hidden]");
  if (permuted) expect_rank("inv_permuted_idx", inv_permuted_idx, 2, "[tokens, topk]");
}

SumReduceArguments checked(Call const& call) {
  check_input(call);
  TensorView const &input = call.input, &output = call.output;
  bool const permuted = call.inv_permuted_idx.given;
  int64_t const tokens = permuted ? call.inv_permuted_idx.sizes[0] : input.sizes[0];
  int64_t const topk = permuted ? call.inv_permuted_idx.sizes[1] : input.sizes[1];
  int64_t const hidden = input.sizes[input.rank - 1];
  if (topk > kMostTopk) {
    throw ArgumentError(permuted ? "inv_permuted_idx" : "input", "of topk " + std::to_string(topk),
                        "a topk of at most " + std::to_string(kMostTopk));
  }
  check_output(call, tokens, hidden);
  check_routing(call, tokens, topk);
  check_shared(call, tokens, hidden);
  check_num_tokens(call);
  check_memory(call);
  if (std::isnan(call.routed_scaling_factor)) throw ArgumentError("routed_scaling_factor", "nan", "a number");

  SumReduceArguments arguments;
  arguments.input = input.data;
  arguments.output = output.data;
  arguments.tokens = tokens;
  arguments.topk = topk;
  arguments.hidden = hidden;
  arguments.input_token_stride = input.strides[0];
  arguments.input_topk_stride = permuted ? 0 : input.strides[1];
  arguments.input_hidden_stride = hidden > 1 ? input.strides[input.rank - 1] : 1;
  arguments.output_token_stride = output.strides[0];
  arguments.output_hidden_stride = hidden > 1 ? output.strides[1] : 1;
  arguments.input_dtype = dtype_of(input.type);
  arguments.output_dtype = dtype_of(output.type);
  arguments.scale = call.routed_scaling_factor;
  if (call.topk_weights.given) {
    arguments.weights = {call.topk_weights.data, call.topk_weights.strides[0], call.topk_weights.strides[1],
                         call.topk_weights.type == Type::kFloat32};
  }
  if (call.topk_ids.given) arguments.expert_ids = index_matrix(call.topk_ids);
  if (call.expert_map.given) {
    arguments.expert_map = static_cast<int32_t const*>(call.expert_map.data);
    arguments.expert_map_stride = call.expert_map.strides[0];
    arguments.experts = call.expert_map.sizes[0];
    arguments.has_expert_map = true;
  }
  if (permuted) {
    arguments.rows_of_slots = index_matrix(call.inv_permuted_idx);
    arguments.rows = input.sizes[0];
    arguments.is_permuted = true;
  }
  if (call.shared_output.given) {
    arguments.shared = call.shared_output.data;
    arguments.shared_token_stride = call.shared_output.strides[0];
    arguments.shared_hidden_stride = hidden > 1 ? call.shared_output.strides[1] : 1;
  }
  if (call.num_tokens.given) arguments.live_tokens = static_cast<int32_t const*>(call.num_tokens.data);
  return arguments;
}

}  // namespace moe_cute
