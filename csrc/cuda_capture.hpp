// Whether programmatic dependent launch pays behind the kernel that a stream capture has just recorded.
#pragma once

#include "machine.hpp"

namespace moe_cute {

// One launch into a stream that may be being captured.
//
// A programmatic launch behind a kernel that never triggers costs more than a plain one: on an H200, in a CUDA graph
// behind an elementwise kernel of torch, 1.53 against 1.26 us at [1, 8, 2048] and 2.34 against 1.70 at [64, 8, 2048].
// Behind one that triggers it is the gain that this project's small sizes live on. A capture tells which it is.
class LaunchSite {
 public:
  LaunchSite(void* stream, Machine const& machine);

  // Where the machine can: true behind this project's kernels and behind those that were themselves launched
  // programmatically, or where nothing is known because the stream is not being captured.
  bool wants_programmatic_launch() const;

  // To be called after the launch: remembers the node, if it was captured, as one that triggers.
  void note_launch() const;

 private:
  void* stream_;
  bool can_;
  bool capturing_;
};

}  // namespace moe_cute
