// Steps of several lengths, of each up to a number: how two strided tensors lie to each other.
#pragma once

#include <cstdint>
#include <vector>

namespace moe_cute {

struct Steps {
  int64_t length;  // at least 1
  int64_t most;    // as many as may be taken
};

// Whether some of the steps add up to `distance`. One of them has a length of 1. True also where that cannot be told
// within a millisecond: false is certain.
bool may_add_up(std::vector<Steps> steps, int64_t distance);

}  // namespace moe_cute
