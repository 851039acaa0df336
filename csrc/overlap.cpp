#include "overlap.hpp"

#include <cstdlib>
#include <numeric>

namespace moe_cute {
namespace {

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

// Whether rows of both, the same distance apart, interleave without touching, as column slices of one buffer do.
bool interleave(TensorView const& a, TensorView const& b) {
  int64_t const pitch = a.strides[0] * bytes_of(a.type);
  if (pitch <= 0 || pitch != b.strides[0] * bytes_of(b.type)) return false;
  Extent const a_row = extent_of(a, 1), b_row = extent_of(b, 1);
  int64_t const shift = ((b_row.first - a_row.first) % pitch + pitch) % pitch;
  return shift >= a_row.last - a_row.first && shift + (b_row.last - b_row.first) <= pitch;
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

}  // namespace moe_cute
