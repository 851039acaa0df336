#include "cuda_capture.hpp"

#if defined(MOE_CUTE_WITH_CUDA)
#include <cuda_runtime_api.h>

#include <vector>

namespace moe_cute {
namespace {

struct CaptureTail {
  bool active = false;
  unsigned long long id = 0;
  std::vector<cudaGraphNode_t> nodes;  // what the next launch will depend on
};

CaptureTail tail_of(cudaStream_t stream) {
  CaptureTail tail;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraphNode_t const* nodes = nullptr;
  size_t count = 0;
#if CUDART_VERSION >= 13000
  cudaGraphEdgeData const* edges = nullptr;  // not asked for, a programmatic edge would make the query an error
  cudaError_t const error = cudaStreamGetCaptureInfo(stream, &status, &tail.id, nullptr, &nodes, &edges, &count);
#else
  cudaError_t const error = cudaStreamGetCaptureInfo_v2(stream, &status, &tail.id, nullptr, &nodes, &count);
#endif
  tail.active = error == cudaSuccess && status == cudaStreamCaptureStatusActive;
  if (tail.active) tail.nodes.assign(nodes, nodes + count);
  if (error != cudaSuccess) cudaGetLastError();  // the older query's answer to programmatic edges: nothing to report
  return tail;
}

struct CapturedLaunch {
  unsigned long long id = 0;
  cudaGraphNode_t node = nullptr;
};
thread_local CapturedLaunch last_launch;

bool was_launched_programmatically(cudaGraphNode_t node) {
  cudaGraphNodeType type{};
  if (cudaGraphNodeGetType(node, &type) != cudaSuccess || type != cudaGraphNodeTypeKernel) return false;
#if CUDART_VERSION >= 13000
  size_t count = 0;
  if (cudaGraphNodeGetDependencies(node, nullptr, nullptr, &count) != cudaSuccess || count == 0) return false;
  std::vector<cudaGraphNode_t> nodes(count);
  std::vector<cudaGraphEdgeData> edges(count);
  if (cudaGraphNodeGetDependencies(node, nodes.data(), edges.data(), &count) != cudaSuccess) return false;
  for (cudaGraphEdgeData const& edge : edges) {
    if (edge.type == cudaGraphDependencyTypeProgrammatic) return true;
  }
#endif
  return false;
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive;
}

}  // namespace

LaunchSite::LaunchSite(void* stream, Machine const& machine)
    : stream_(stream),
      can_(has_dependent_launch(machine)),
      capturing_(can_ && is_capturing(static_cast<cudaStream_t>(stream))) {}

bool LaunchSite::wants_programmatic_launch() const {
  if (!capturing_) return can_;
  CaptureTail const tail = tail_of(static_cast<cudaStream_t>(stream_));
  if (!tail.active || tail.nodes.empty()) return true;
  if (tail.nodes.size() > 1) return false;
  bool const ours = tail.id == last_launch.id && tail.nodes[0] == last_launch.node;
  return ours || was_launched_programmatically(tail.nodes[0]);
}

void LaunchSite::note_launch() const {
  if (!capturing_) return;
  CaptureTail const tail = tail_of(static_cast<cudaStream_t>(stream_));
  if (tail.active && tail.nodes.size() == 1) last_launch = {tail.id, tail.nodes[0]};
}

}  // namespace moe_cute
#else
namespace moe_cute {

LaunchSite::LaunchSite(void* stream, Machine const&) : stream_(stream), can_(false), capturing_(false) {}
bool LaunchSite::wants_programmatic_launch() const { return can_ && capturing_; }
void LaunchSite::note_launch() const { (void)stream_; }

}  // namespace moe_cute
#endif
