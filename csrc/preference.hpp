// Which launch suits a call best, measured or reckoned; whether a variant accepts the call is another matter.
#pragma once

#include "arguments.hpp"
#include "machine.hpp"
#include "predecessor.hpp"

namespace moe_cute {

struct Preference {
  int vector_width = 0;
  int threads = 0;
  int prefetch_kib = 0;
  bool measured = false;  // from a launch rule alone
};

struct Preferences {
  Preference aligned;    // of vectors in one load, and of single elements
  Preference unaligned;  // of those that may start anywhere; a width of 1: single elements rather
};

// Nothing is preferred on a CPU.
Preferences preferences_for(SumReduceArguments const& call, Machine const& machine, Predecessor predecessor);

}  // namespace moe_cute
