// How large this host's caches are.
#pragma once

#include <cstdint>

namespace moe_cute {

// Of all cores together, the last level, as Linux tells it: sysconf told of 320 MiB in a virtual machine that has 32.
// Where Linux does not tell, 32 MiB.
int64_t last_level_cache_bytes();

}  // namespace moe_cute
