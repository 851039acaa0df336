// What the CPU's kernels may name of a processor, whatever the rest of their file is compiled for.
#pragma once

#if defined(__x86_64__)
#define MOE_CUTE_TARGET_AVX2 target("avx2,fma,f16c")
#if defined(__clang__)  // which takes whole registers unasked, and drops an attribute that it does not know all of
#define MOE_CUTE_TARGET_AVX512 target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#else
#define MOE_CUTE_TARGET_AVX512 target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#endif
