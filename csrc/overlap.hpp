// Which tensors share memory.
#pragma once

#include "tensor_view.hpp"

namespace moe_cute {

// Whether two elements of a matrix share their place.
bool overlaps_itself(TensorView const& matrix);

// Whether two tensors have memory in common. False is certain; true is too, but for strides at odds with each other
// that would take too long to follow (steps.hpp).
bool may_overlap(TensorView const& a, TensorView const& b);

// Whether two matrices are the same elements in the same places.
bool same_view(TensorView const& a, TensorView const& b);

}  // namespace moe_cute
