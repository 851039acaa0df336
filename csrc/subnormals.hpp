// Arithmetic with subnormals, whatever the calling thread does with them: to flush them is a state of one thread
// (torch.set_flush_denormal), so that the threads of one call could differ.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moe_cute {

// While it lives, this thread keeps subnormals. What it calculates goes into a function that is not inlined: to a
// compiler, arithmetic does not depend on the state, and may move past the change.
class KeepSubnormals {
 public:
  KeepSubnormals() : before_(state()) {
    if (before_ & kFlushing) set_state(before_ & ~kFlushing);
  }
  ~KeepSubnormals() {
    if (before_ & kFlushing) set_state(before_);
  }
  KeepSubnormals(KeepSubnormals const&) = delete;
  KeepSubnormals& operator=(KeepSubnormals const&) = delete;

 private:
#if defined(__x86_64__)
  using State = unsigned;
  static constexpr State kFlushing = _MM_FLUSH_ZERO_ON | 0x0040;  // results, and operands (DAZ)
  static State state() { return _mm_getcsr(); }
  static void set_state(State state) { _mm_setcsr(state); }
#elif defined(__aarch64__)
  using State = uint64_t;
  static constexpr State kFlushing = uint64_t(1) << 24;  // FPCR.FZ: both
  static State state() {
    State state;
    asm volatile("mrs %0, fpcr" : "=r"(state));
    return state;
  }
  static void set_state(State state) { asm volatile("msr fpcr, %0" : : "r"(state)); }
#else
  using State = unsigned;
  static constexpr State kFlushing = 0;
  static State state() { return 0; }
  static void set_state(State) {}
#endif

  State const before_;
};

}  // namespace moe_cute
