// The kernel before a CUDA launch, by which the launch is chosen.
#pragma once

#include <cstdint>

namespace moe_cute {

// kNone:       nothing that the launch may overlap with.
// kOrdinary:   a kernel that knows nothing of programmatic dependent launch.
// kTriggering: one that lets the next kernel start early.
enum class Predecessor : int8_t { kNone, kOrdinary, kTriggering };

}  // namespace moe_cute
