#include "acceptance.hpp"

#include <algorithm>

#include "select.hpp"
#include "tensor_view.hpp"

namespace moe_cute {
namespace {

std::string number(int64_t value) { return std::to_string(value); }

std::string spread(char const* name, int64_t hidden_stride) {
  return std::string(name) + "'s hidden stride is " + number(hidden_stride) + ", not 1";
}

// Why vectors of `bytes` cannot start at every row of a tensor; empty if they can.
std::string misalignment(char const* name, void const* data, int element_bytes, int bytes, int64_t rows,
                         int64_t row_stride, int64_t topk, int64_t topk_stride, int64_t hidden_stride) {
  if (hidden_stride != 1) return spread(name, hidden_stride);
  int64_t const past = reinterpret_cast<uintptr_t>(data) % bytes;
  if (past != 0) return std::string(name) + " starts " + number(past) + " bytes past a multiple of " + number(bytes);
  if (topk > 1 && topk_stride * element_bytes % bytes != 0) {
    return std::string(name) + "'s topk rows are " + number(topk_stride * element_bytes) +
           " bytes apart, not a multiple of " + number(bytes);
  }
  if (rows > 1 && row_stride * element_bytes % bytes != 0) {
    return std::string(name) + "'s rows are " + number(row_stride * element_bytes) +
           " bytes apart, not a multiple of " + number(bytes);
  }
  return {};
}

// Why the elements of a row are no neighbours; empty if they are.
std::string refuse_spread(SumReduceArguments const& call) {
  if (call.input_hidden_stride != 1) return spread("input", call.input_hidden_stride);
  if (call.output_hidden_stride != 1) return spread("output", call.output_hidden_stride);
  if (call.shared && call.shared_hidden_stride != 1) return spread("shared_output", call.shared_hidden_stride);
  return {};
}

// Why its strides are not the constants of a specialised hidden size; empty if they are.
std::string refuse_unpacked(SumReduceArguments const& call) {
  std::string reason = refuse_spread(call);
  if (!reason.empty()) return reason;
  auto const apart = [](char const* rows, int64_t stride, int64_t packed) {
    return std::string(rows) + " are " + number(stride) + " elements apart, not packed " + number(packed);
  };
  if (call.topk > 1 && call.input_topk_stride != call.hidden)
    return apart("the topk rows", call.input_topk_stride, call.hidden);
  if (call.tokens > 1 && call.input_token_stride != call.topk * call.hidden)
    return apart("the input's tokens", call.input_token_stride, call.topk * call.hidden);
  if (call.tokens > 1 && call.output_token_stride != call.hidden)
    return apart("the output's rows", call.output_token_stride, call.hidden);
  return {};
}

// Why a looked-up row is no int32; empty if it is.
std::string refuse_many_rows(SumReduceArguments const& call) {
  if (!call.is_permuted || call.rows <= INT32_MAX) return {};
  return "the input has " + number(call.rows) + " rows, and it counts them in 32 bits";
}

// Why a row's address cannot be told in one multiplication of 32 bits (kNarrowRows); empty if it can.
std::string refuse_far_rows(SumReduceArguments const& call) {
  int64_t const rows = call.is_permuted ? call.rows : call.topk;
  int64_t const stride = call.is_permuted ? call.input_token_stride : call.input_topk_stride;
  int64_t const bytes = stride * element_bytes(call.input_dtype);
  if (rows > 1 && bytes > UINT32_MAX) {
    return "the input's rows are " + number(bytes) + " bytes apart, and it counts them in 32 bits";
  }
  return refuse_many_rows(call);
}

// Why what it reads beside a row may lie past the input's end, where that is not the end of the last token's last row;
// empty if it cannot.
std::string refuse_close_rows(Variant const& variant, SumReduceArguments const& call) {
  if (!shifts(Alignment::kElement, variant.dtype, variant.vector_width, variant.epilogue)) return {};
  auto const apart = [&](char const* rows, int64_t stride) {
    return std::string(rows) + " are " + number(stride) + " elements apart, and it reads up to " +
           number(variant.vector_width - 1) + " past a row's end";
  };
  if (call.topk > 1 && call.input_topk_stride < variant.vector_width)
    return apart("the topk rows", call.input_topk_stride);
  if (call.tokens > 1 && call.topk > 0 && call.input_token_stride < variant.vector_width)
    return apart("the input's tokens", call.input_token_stride);
  return {};
}

// Why vectors that start at any element are not in each row; empty if they are.
std::string refuse_unaligned_vectors(Variant const& variant, SumReduceArguments const& call) {
  if (call.hidden < variant.vector_width) {
    return "hidden size " + number(call.hidden) + " is less than " + number(variant.vector_width);
  }
  std::string reason = refuse_spread(call);
  if (reason.empty()) reason = refuse_close_rows(variant, call);
  if (reason.empty() && call.adds_to_output() && call.hidden % variant.vector_width != 0) {
    reason = "shared_output is the output, and what a row's last two vectors have in common would be added twice";
  }
  return reason;
}

std::string refuse_vectors(Variant const& variant, SumReduceArguments const& call) {
  if (variant.is_unaligned) return refuse_unaligned_vectors(variant, call);
  int const width = variant.vector_width;
  if (call.hidden % width != 0) return "hidden size " + number(call.hidden) + " is no multiple of " + number(width);
  int const in = element_bytes(call.input_dtype), out = element_bytes(call.output_dtype);
  int64_t const input_rows = call.is_permuted ? call.rows : call.tokens;
  std::string reason = misalignment("input", call.input, in, width * in, input_rows, call.input_token_stride, call.topk,
                                    call.input_topk_stride, call.input_hidden_stride);
  int const out_access = std::min(width * out, 16);
  if (reason.empty()) {
    reason = misalignment("output", call.output, out, out_access, call.tokens, call.output_token_stride, 1, 0,
                          call.output_hidden_stride);
  }
  if (reason.empty() && call.shared) {
    reason = misalignment("shared_output", call.shared, out, out_access, call.tokens, call.shared_token_stride, 1, 0,
                          call.shared_hidden_stride);
  }
  return reason;
}

}  // namespace

Epilogue needed_epilogue(SumReduceArguments const& call) {
  if (call.expert_ids.data || call.live_tokens || call.input_dtype != call.output_dtype) return Epilogue::kRouted;
  if (call.is_permuted) return Epilogue::kPermuted;
  return call.weights.data || call.shared ? Epilogue::kWeighted : Epilogue::kPlain;
}

std::string refuse(Variant const& variant, SumReduceArguments const& call, Machine const& machine) {
  if (variant.backend != machine.backend) {
    return std::string("it runs on ") + name_of(variant.backend) + ", the input is on " + name_of(machine.backend);
  }
  if (variant.dtype != call.input_dtype) {
    return std::string("it reads ") + name_of(variant.dtype) + ", the input is " + name_of(call.input_dtype);
  }
  if (variant.launch == nullptr) return "this build does not contain it";
  if (variant.instruction_set > machine.instruction_set) {
    return std::string("it needs ") + name_of(variant.instruction_set) + ", this processor has " +
           name_of(machine.instruction_set);
  }
  if (variant.epilogue < needed_epilogue(call)) {
    return std::string("the call needs the ") + name_of(needed_epilogue(call)) + " epilogue";
  }
  if (variant.epilogue == Epilogue::kPermuted) {
    if (!call.is_permuted) return "it looks up rows, and the call has no inv_permuted_idx";
    std::string const reason = refuse_many_rows(call);
    if (!reason.empty()) return reason;
  }
  if (variant.epilogue != Epilogue::kRouted && call.input_dtype != call.output_dtype)
    return "it stores the input's dtype";
  if (variant.topk != kAny && variant.topk != call.topk)
    return "topk is " + number(call.topk) + ", not " + number(variant.topk);
  if (variant.hidden != kAny && variant.hidden != call.hidden) {
    return "hidden size is " + number(call.hidden) + ", not " + number(variant.hidden);
  }
  if (variant.hidden != kAny) {
    std::string const reason = refuse_unpacked(call);
    if (!reason.empty()) return reason;
  }
  if (variant.backend == Backend::kCuda && variant.vector_width > 1) {
    std::string const reason = refuse_vectors(variant, call);
    return reason.empty() && variant.epilogue != Epilogue::kPlain ? refuse_far_rows(call) : reason;
  }
  return {};
}

}  // namespace moe_cute
