// One call as the launchers see it: checked, in elements, free of torch.
#pragma once

#include <cstdint>

#include "configuration.hpp"

namespace moe_cute {

struct IndexMatrix {  // [tokens, topk] of int32 or int64; null where the call has none
  void const* data = nullptr;
  int64_t token_stride = 0;
  int64_t topk_stride = 0;
  bool is_int64 = false;
};

struct WeightMatrix {  // [tokens, topk] of float32 or of the input's dtype; null where the call has none
  void const* data = nullptr;
  int64_t token_stride = 0;
  int64_t topk_stride = 0;
  bool is_float32 = false;
};

struct SumReduceArguments {
  void const* input = nullptr;  // [tokens, topk, hidden], or [rows, hidden] where `rows_of_slots` is given
  void* output = nullptr;       // [tokens, hidden]
  int64_t tokens = 0;
  int64_t topk = 0;
  int64_t hidden = 0;
  int64_t input_token_stride = 0;
  int64_t input_topk_stride = 0;
  int64_t input_hidden_stride = 1;
  int64_t output_token_stride = 0;
  int64_t output_hidden_stride = 1;
  DType input_dtype = DType::kFloat32;
  DType output_dtype = DType::kFloat32;
  double scale = 1.0;

  WeightMatrix weights;                 // topk_weights
  IndexMatrix expert_ids;               // topk_ids
  bool has_expert_map = false;          // an empty map has no address
  int32_t const* expert_map = nullptr;  // [experts]
  int64_t expert_map_stride = 1;
  int64_t experts = 0;
  IndexMatrix rows_of_slots;     // inv_permuted_idx
  bool is_permuted = false;      // likewise
  int64_t rows = 0;              // of a permuted input
  void const* shared = nullptr;  // shared_output [tokens, hidden], of the output's dtype
  int64_t shared_token_stride = 0;
  int64_t shared_hidden_stride = 1;
  int32_t const* live_tokens = nullptr;  // num_tokens, on the device

  // Whether what is added is what is overwritten: no element may be summed twice.
  bool adds_to_output() const { return shared != nullptr && shared == output; }
};

}  // namespace moe_cute
