#include "overlap.hpp"

#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

#include "steps.hpp"

namespace moe_cute {
namespace {

struct Extent {  // bytes, [first, last)
  intptr_t first, last;
  bool meets(Extent const& other) const { return first < other.last && other.first < last; }
};

// Of a tensor that has elements.
Extent extent_of(TensorView const& tensor) {
  intptr_t const base = reinterpret_cast<intptr_t>(tensor.data);
  int64_t low = 0, high = 0;
  for (int dim = 0; dim < tensor.rank; ++dim) {
    int64_t const reach = (tensor.sizes[dim] - 1) * tensor.strides[dim];
    (reach < 0 ? low : high) += reach;
  }
  int const bytes = bytes_of(tensor.type);
  return {base + low * bytes, base + (high + 1) * bytes};
}

// From a tensor's first byte to all others, or from its last one back.
void append_steps(TensorView const& tensor, std::vector<Steps>& steps) {
  int64_t const bytes = bytes_of(tensor.type);
  steps.push_back({1, bytes - 1});
  for (int dim = 0; dim < tensor.rank; ++dim) {
    if (tensor.sizes[dim] > 1 && tensor.strides[dim] != 0)
      steps.push_back({std::abs(tensor.strides[dim]) * bytes, tensor.sizes[dim] - 1});
  }
}

}  // namespace

// Two elements share their place where they are i rows apart and j columns apart with i x row stride = j x column
// stride, of which the smallest i and j are the strides over their greatest common divisor.
bool overlaps_itself(TensorView const& matrix) {
  int64_t const rows = matrix.sizes[0], columns = matrix.sizes[1];
  if (rows == 0 || columns == 0) return false;
  int64_t const row_stride = rows > 1 ? std::abs(matrix.strides[0]) : 1;
  int64_t const column_stride = columns > 1 ? std::abs(matrix.strides[1]) : 1;
  if (row_stride == 0 || column_stride == 0) return true;
  int64_t const divisor = std::gcd(row_stride, column_stride);
  return rows > 1 && columns > 1 && column_stride / divisor < rows && row_stride / divisor < columns;
}

// They share a byte where steps from the first byte of `a` and steps back from the last one of `b` lead to the same.
bool may_overlap(TensorView const& a, TensorView const& b) {
  if (is_empty(a) || is_empty(b)) return false;
  Extent const a_extent = extent_of(a), b_extent = extent_of(b);
  if (!a_extent.meets(b_extent)) return false;  // nearly every call's answer
  std::vector<Steps> steps;
  append_steps(a, steps);
  append_steps(b, steps);
  return may_add_up(std::move(steps), b_extent.last - 1 - a_extent.first);
}

bool same_view(TensorView const& a, TensorView const& b) {
  if (a.data != b.data || a.type != b.type) return false;
  for (int dim = 0; dim < 2; ++dim) {
    if (a.sizes[dim] != b.sizes[dim] || (a.sizes[dim] > 1 && a.strides[dim] != b.strides[dim])) return false;
  }
  return true;
}

}  // namespace moe_cute
