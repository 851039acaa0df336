// What a CUDA kernel asks of its warp, from 32 threads of the host that meet at a barrier.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

#define MOE_CUTE_EMULATED_WARP
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

inline constexpr int kWarp = 32;

struct Coordinate { unsigned x = 0; };
inline thread_local Coordinate threadIdx, blockIdx;

namespace warp {

inline thread_local int lane = 0;
inline uint64_t said[kWarp];  // by each lane
inline std::function<void()> at_wait;

// Returns when all lanes have come here.
inline void meet() {
  static pthread_barrier_t* const barrier = [] {
    static pthread_barrier_t made;
    pthread_barrier_init(&made, nullptr, kWarp);
    return &made;
  }();
  pthread_barrier_wait(barrier);
}

// What `f` makes of all that was said.
template <class T, class F>
auto exchange(T value, F const& f) {
  std::memcpy(&said[lane], &value, sizeof(T));
  meet();
  auto const result = f();
  meet();
  return result;
}

}  // namespace warp

template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return warp::exchange(value, [from] {
    T other;
    std::memcpy(&other, &warp::said[from % kWarp], sizeof(T));
    return other;
  });
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  return warp::exchange(uint64_t(vote), [] {
    unsigned votes = 0;
    for (int lane = 0; lane < kWarp; ++lane) votes |= unsigned(warp::said[lane]) << lane;
    return votes;
  });
}

inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == 0xffffffffu; }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t(a) * b) >> 32); }

using std::max;
using std::min;

// `griddepcontrol.wait`: what the kernel before was about to write is there when it returns.
inline void emulated_wait() {
  warp::meet();
  if (warp::lane == 0) warp::at_wait();
  warp::meet();
}
