// The running sum of a token's vector: on the host in SIMD registers, on the device element by element.
#pragma once

#include "configuration.hpp"

#if defined(MOE_CUTE_GPU_BODY)
#include "element_sum.hpp"
#else
#include "simd_sum.hpp"
#endif
