// What a compiled kernel is specialised for. No CuTe, CUDA or torch here: the generated table includes it everywhere.
#pragma once

#include <cstdint>

// The body as a GPU runs it: compiled by nvcc, or on the host, where tests/build/emulated_warp.cpp makes a warp of
// threads.
#if defined(__CUDACC__) || defined(MOE_CUTE_EMULATED_WARP)
#define MOE_CUTE_GPU_BODY
#endif

namespace moe_cute {

enum class DType : int8_t { kFloat16, kBFloat16, kFloat32, kFloat64 };
enum class Backend : int8_t { kCuda, kCpu };

// In rising order: a processor that has one has all before it.
enum class InstructionSet : int8_t { kNone, kBaseline, kAvx2, kAvx512 };

// kPlain:    the sum and the scale.
// kWeighted: topk_weights, and shared_output where it is given.
// kPermuted: that, and inv_permuted_idx.
// kRouted:   everything sum_reduce can do, each part decided at run time.
// In rising order: each can do what those before it can.
enum class Epilogue : int8_t { kPlain, kWeighted, kPermuted, kRouted };

// Where a vector may start: at a multiple of its size (of 16 bytes, if it is longer), or at any element.
enum class Alignment : int8_t { kVector, kElement };

inline constexpr int kAny = 0;

constexpr int element_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// Of a CUDA block. A fused kernel, unbounded, takes so many registers that too few threads are left to cover what it
// looks up before its rows.
constexpr int max_threads(Epilogue epilogue) { return epilogue == Epilogue::kPlain ? 512 : 256; }

// Whether vectors that may start anywhere are loaded in the aligned words that hold them, and shifted into place, not
// element by element: where that takes half the loads or fewer. On an H200, of an input offset by one element, bfloat16
// [1024, 8, 2048] by four took 11.1 us element by element and 9.7 so, [1024, 8, 7168] 35.3 and 31.1. By two there is
// nothing to win, and where rows are looked up it cost 4 %.
constexpr bool shifts(Alignment alignment, DType dtype, int vector_width, Epilogue epilogue) {
  return alignment == Alignment::kElement && element_bytes(dtype) == 2 && vector_width >= 4 &&
         epilogue < Epilogue::kPermuted;
}

// kHidden and kTopK are sizes, or kAny for sizes known only at run time; kVectorWidth is in elements.
template <DType kDType_, int kHidden_, int kTopK_, int kVectorWidth_, Epilogue kEpilogue_,
          Alignment kAlignment_ = Alignment::kVector>
struct Configuration {
  static constexpr DType kDType = kDType_;
  static constexpr int kHidden = kHidden_;
  static constexpr int kTopK = kTopK_;
  static constexpr int kVectorWidth = kVectorWidth_;
  static constexpr Epilogue kEpilogue = kEpilogue_;
  static constexpr Alignment kAlignment = kAlignment_;
  static constexpr bool kShifts = shifts(kAlignment, kDType, kVectorWidth, kEpilogue);
  static constexpr int kLoadWidth = kAlignment == Alignment::kVector || kShifts ? kVectorWidth : 1;  // elements

  static_assert(kHidden >= 0 && kTopK >= 0 && kVectorWidth >= 1);
  static_assert(kHidden % kVectorWidth == 0, "a specialised hidden size is a whole number of vectors");
};

}  // namespace moe_cute
