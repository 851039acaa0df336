// Where a CUDA launch goes: what it follows there, and how it comes to overlap with that.
#pragma once

#include "machine.hpp"
#include "predecessor.hpp"

namespace moe_cute {

// Outside of a stream capture, the launch has the attribute of programmatic stream serialization, and starts when the
// kernel before triggers. In a graph, a kernel that never does costs such a launch time instead, and there is a better
// way: an edge that lets the launch start when all blocks of the kernel before have begun, whatever kernel that is. On
// an H100, in a graph, behind an elementwise kernel that has just written the input, bfloat16 [64, 8, 2048]
// took 2.22 us by the attribute, 1.71 by an ordinary launch and 1.18 by such an edge; behind a kernel that triggers at
// its start, edge and attribute are equal.
class LaunchSite {
 public:
  // `may_overlap`: whether the caller allows it.
  LaunchSite(void* stream, Machine const& machine, bool may_overlap);

  Predecessor predecessor() const { return predecessor_; }

  // Whether the launch is to have the attribute.
  bool by_attribute() const { return captured_kernel_ == nullptr && predecessor_ != Predecessor::kNone; }

  // To be called just before the launch: makes the edge, in a capture.
  void connect() const;

 private:
  void* stream_;
  void* captured_kernel_ = nullptr;  // the node of the kernel before, in a capture
  Predecessor predecessor_ = Predecessor::kNone;
};

}  // namespace moe_cute
