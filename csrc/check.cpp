// What sum_reduce accepts. Nothing is launched or written before all of this has passed.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <string>

#include "call.hpp"

namespace moe_cute {
namespace {

std::string shape_of(TensorView const& tensor) {
  std::string text = "[";
  for (int dim = 0; dim < tensor.rank && dim < TensorView::kMaxRank; ++dim)
    text += (dim ? ", " : "") + std::to_string(tensor.sizes[dim]);
  return text + (tensor.rank > TensorView::kMaxRank ? ", ...], a tensor of rank " + std::to_string(tensor.rank) : "]");
}

std::string device_of(TensorView const& tensor) {
  if (tensor.device == Device::kOther) return "another device";
  return tensor.device == Device::kCpu ? "cpu" : "cuda:" + std::to_string(tensor.device_index);
}

bool is_floating(Type type) { return type <= Type::kFloat64; }
bool is_index(Type type) { return type == Type::kInt32 || type == Type::kInt64; }

int bytes_of(Type type) { return type == Type::kInt32 ? 4 : type == Type::kInt64 ? 8 : element_bytes(dtype_of(type)); }

void expect_rank(char const* name, TensorView const& tensor, int rank, char const* shape) {
  if (tensor.rank != rank) throw ArgumentError(name, "of shape " + shape_of(tensor), std::string("shape ") + shape);
}

void expect_shape(char const* name, TensorView const& tensor, int64_t rows, int64_t columns, char const* meaning) {
  expect_rank(name, tensor, 2, meaning);
  if (tensor.sizes[0] != rows || tensor.sizes[1] != columns) {
    throw ArgumentError(name, "of shape " + shape_of(tensor),
                        std::string(meaning) + " = [" + std::to_string(rows) + ", " + std::to_string(columns) + "]");
  }
}

void expect_device(char const* name, TensorView const& tensor, TensorView const& input) {
  if (tensor.device != input.device || (tensor.device == Device::kCuda && tensor.device_index != input.device_index)) {
    throw ArgumentError(name, "on " + device_of(tensor), "the input's device, " + device_of(input));
  }
}

void expect_index(char const* name, TensorView const& tensor) {
  if (!is_index(tensor.type))
    throw ArgumentError(name, std::string("of dtype ") + type_name_of(tensor), "int32 or int64", true);
}

struct Extent {  // bytes, [first, last)
  intptr_t first, last;
  bool meets(Extent const& other) const { return first < other.last && other.first < last; }
};

// Of dimensions [first_dim, rank).
Extent extent_of(TensorView const& tensor, int first_dim = 0) {
  intptr_t const base = reinterpret_cast<intptr_t>(tensor.data);
  if (is_empty(tensor)) return {base, base};
  int64_t low = 0, high = 0;
  for (int dim = first_dim; dim < tensor.rank; ++dim) {
    int64_t const reach = (tensor.sizes[dim] - 1) * tensor.strides[dim];
    (reach < 0 ? low : high) += reach;
  }
  int const bytes = bytes_of(tensor.type);
  return {base + low * bytes, base + (high + 1) * bytes};
}

// Whether two elements of a matrix share their place: i rows apart and j columns apart with i x row stride = j x column
// stride, for which the smallest i and j are the strides over their greatest common divisor.
bool overlaps_itself(TensorView const& matrix) {
  int64_t const rows = matrix.sizes[0], columns = matrix.sizes[1];
  if (rows == 0 || columns == 0) return false;
  int64_t const row_stride = rows > 1 ? std::abs(matrix.strides[0]) : 1;
  int64_t const column_stride = columns > 1 ? std::abs(matrix.strides[1]) : 1;
  if (row_stride == 0 || column_stride == 0) return true;
  int64_t const divisor = std::gcd(row_stride, column_stride);
  return rows > 1 && columns > 1 && column_stride / divisor < rows && row_stride / divisor < columns;
}

// Whether rows of both, the same distance apart, interleave without touching, as column slices of one buffer do.
bool interleave(TensorView const& a, TensorView const& b) {
  int64_t const pitch = a.strides[0] * bytes_of(a.type);
  if (pitch <= 0 || pitch != b.strides[0] * bytes_of(b.type)) return false;
  Extent const a_row = extent_of(a, 1), b_row = extent_of(b, 1);
  int64_t const shift = ((b_row.first - a_row.first) % pitch + pitch) % pitch;
  return shift >= a_row.last - a_row.first && shift + (b_row.last - b_row.first) <= pitch;
}

bool may_overlap(TensorView const& a, TensorView const& b) {
  return extent_of(a).meets(extent_of(b)) && !interleave(a, b);
}

bool same_view(TensorView const& a, TensorView const& b) {
  if (a.data != b.data || a.type != b.type) return false;
  for (int dim = 0; dim < 2; ++dim) {
    if (a.sizes[dim] != b.sizes[dim] || (a.sizes[dim] > 1 && a.strides[dim] != b.strides[dim])) return false;
  }
  return true;
}

void check_input(Call const& call) {
  bool const permuted = call.inv_permuted_idx.given;
  expect_rank("input", call.input, permuted ? 2 : 3,
              permuted ? "[rows, hidden], since inv_permuted_idx is given" : "[tokens, topk, hidden]");
  if (!is_floating(call.input.type)) {
    throw ArgumentError("input", std::string("of dtype ") + type_name_of(call.input),
                        "float16, bfloat16, float32 or float64", true);
  }
  if (call.input.device == Device::kOther) throw ArgumentError("input", "on another device", "cpu or cuda");
}

void check_output(Call const& call, int64_t tokens, int64_t hidden) {
  TensorView const &input = call.input, &output = call.output;
  expect_device("output", output, input);
  expect_shape("output", output, tokens, hidden, "[tokens, hidden]");
  bool const same = output.type == input.type;
  bool const widened = output.type == Type::kFloat32 && input.type != Type::kFloat64;
  bool const narrowed =
      input.type == Type::kFloat32 && (output.type == Type::kFloat16 || output.type == Type::kBFloat16);
  if (!is_floating(output.type) || !(same || widened || narrowed)) {
    std::string const allowed = input.type == Type::kFloat64 ? "float64, as the input"
                                : input.type == Type::kFloat32
                                    ? "float32 as the input, float16 or bfloat16"
                                    : std::string(type_name_of(input)) + " as the input, or float32";
    throw ArgumentError("output", std::string("of dtype ") + type_name_of(output), allowed, true);
  }
  if (overlaps_itself(output)) {
    throw ArgumentError("output", "a tensor whose elements share memory (an expanded or overlapping view)",
                        "one place in memory for each element");
  }
  if (may_overlap(input, output))
    throw ArgumentError("output", "in memory that the input also uses", "memory of its own");
}

void check_topk_matrix(char const* name, TensorView const& matrix, Call const& call, int64_t tokens, int64_t topk) {
  expect_device(name, matrix, call.input);
  expect_shape(name, matrix, tokens, topk, "[tokens, topk]");
}

void check_routing(Call const& call, int64_t tokens, int64_t topk) {
  if (call.topk_weights.given) {
    check_topk_matrix("topk_weights", call.topk_weights, call, tokens, topk);
    if (call.topk_weights.type != Type::kFloat32 && call.topk_weights.type != call.input.type) {
      throw ArgumentError("topk_weights", std::string("of dtype ") + type_name_of(call.topk_weights),
                          std::string("float32 or the input's ") + type_name_of(call.input), true);
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
    expect_device("expert_map", call.expert_map, call.input);
    expect_rank("expert_map", call.expert_map, 1, "[experts]");
    if (call.expert_map.type != Type::kInt32) {
      throw ArgumentError("expert_map", std::string("of dtype ") + type_name_of(call.expert_map), "int32", true);
    }
  }
}

void check_shared(Call const& call, int64_t tokens, int64_t hidden) {
  TensorView const& shared = call.shared_output;
  if (!shared.given) return;
  expect_device("shared_output", shared, call.input);
  expect_shape("shared_output", shared, tokens, hidden, "[tokens, hidden]");
  if (shared.type != call.output.type) {
    throw ArgumentError("shared_output", std::string("of dtype ") + type_name_of(shared),
                        std::string("the output's ") + type_name_of(call.output), true);
  }
  if (!same_view(shared, call.output) && may_overlap(shared, call.output)) {
    throw ArgumentError("shared_output", "in part of the output's memory", "the output itself, or memory of its own");
  }
}

void check_num_tokens(Call const& call) {
  TensorView const& count = call.num_tokens;
  if (!count.given) return;
  expect_device("num_tokens", count, call.input);
  int64_t elements = count.rank <= TensorView::kMaxRank ? 1 : 0;
  for (int dim = 0; dim < count.rank && dim < TensorView::kMaxRank; ++dim) elements *= count.sizes[dim];
  if (elements != 1)
    throw ArgumentError("num_tokens", "of shape " + shape_of(count), "one element, of at most 3 dimensions");
  if (count.type != Type::kInt32) {
    throw ArgumentError("num_tokens", std::string("of dtype ") + type_name_of(count), "int32", true);
  }
}

IndexMatrix index_matrix(TensorView const& view) {
  return {view.data, view.strides[0], view.strides[1], view.type == Type::kInt64};
}

}  // namespace

bool is_empty(TensorView const& tensor) {
  for (int dim = 0; dim < tensor.rank; ++dim) {
    if (tensor.sizes[dim] == 0) return true;
  }
  return false;
}

DType dtype_of(Type type) { return static_cast<DType>(type); }

char const* name_of(Type type) {
  static constexpr char const* kNames[] = {"float16", "bfloat16", "float32",     "float64",
                                           "int32",   "int64",    "another kind"};
  return kNames[static_cast<int>(type)];
}

char const* type_name_of(TensorView const& tensor) {
  return tensor.other_type_name ? tensor.other_type_name : name_of(tensor.type);
}

char const* name_of(DType dtype) { return name_of(static_cast<Type>(dtype)); }

SumReduceArguments checked(Call const& call) {
  check_input(call);
  TensorView const &input = call.input, &output = call.output;
  bool const permuted = call.inv_permuted_idx.given;
  if (permuted) expect_rank("inv_permuted_idx", call.inv_permuted_idx, 2, "[tokens, topk]");
  int64_t const tokens = permuted ? call.inv_permuted_idx.sizes[0] : input.sizes[0];
  int64_t const topk = permuted ? call.inv_permuted_idx.sizes[1] : input.sizes[1];
  int64_t const hidden = input.sizes[input.rank - 1];
  if (topk > std::numeric_limits<int32_t>::max()) {
    throw ArgumentError("input", "of topk " + std::to_string(topk), "a topk of at most 2147483647");
  }
  check_output(call, tokens, hidden);
  check_routing(call, tokens, topk);
  check_shared(call, tokens, hidden);
  check_num_tokens(call);
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
