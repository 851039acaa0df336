// Which tensors share memory.
#pragma once

#include "tensor_view.hpp"

namespace moe_cute {

// Whether two elements of a matrix share their place.
bool overlaps_itself(TensorView const& matrix);

// Whether two tensors may have an element in common: false is certain.
bool may_overlap(TensorView const& a, TensorView const& b);

// Whether two matrices are the same elements in the same places.
bool same_view(TensorView const& a, TensorView const& b);

}  // namespace moe_cute
