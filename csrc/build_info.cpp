#include "variant.hpp"

#if !defined(MOE_CUTE_ARCHITECTURES)
#define MOE_CUTE_ARCHITECTURES ""
#endif

namespace moe_cute {

char const* compiled_architectures() { return MOE_CUTE_ARCHITECTURES; }

}  // namespace moe_cute
