#include "launch_site.hpp"

#if defined(MOE_CUTE_WITH_CUDA)
#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

// Edges of graphs came with CUDA 12.3, under names that lost their suffixes in 13.0.
#if CUDART_VERSION >= 13000
#define MOE_CUTE_CAPTURE_INFO cudaStreamGetCaptureInfo
#define MOE_CUTE_UPDATE_DEPENDENCIES cudaStreamUpdateCaptureDependencies
#define MOE_CUTE_NODE_DEPENDENCIES cudaGraphNodeGetDependencies
#elif CUDART_VERSION >= 12030
#define MOE_CUTE_CAPTURE_INFO cudaStreamGetCaptureInfo_v3
#define MOE_CUTE_UPDATE_DEPENDENCIES cudaStreamUpdateCaptureDependencies_v2
#define MOE_CUTE_NODE_DEPENDENCIES cudaGraphNodeGetDependencies_v2
#endif

namespace moe_cute {
namespace {

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive;
}

#if defined(MOE_CUTE_CAPTURE_INFO)
bool is_plain(cudaGraphEdgeData const& edge) {
  return edge.type == cudaGraphDependencyTypeDefault && edge.from_port == cudaGraphKernelNodePortDefault;
}

// The one kernel that the next captured launch would wait for by an ordinary edge, or null.
cudaGraphNode_t kernel_before(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  cudaGraphNode_t const* nodes = nullptr;
  cudaGraphEdgeData const* edges = nullptr;
  size_t count = 0;
  cudaGraphNodeType type{};
  bool const is_one = MOE_CUTE_CAPTURE_INFO(stream, &status, &id, nullptr, &nodes, &edges, &count) == cudaSuccess &&
                      status == cudaStreamCaptureStatusActive && count == 1 && (edges == nullptr || is_plain(edges[0]));
  if (!is_one || cudaGraphNodeGetType(nodes[0], &type) != cudaSuccess) return nullptr;
  return type == cudaGraphNodeTypeKernel ? nodes[0] : nullptr;
}

// Whoever was itself launched so, this project's kernels among them, can be expected to trigger.
bool was_launched_programmatically(cudaGraphNode_t node) {
  size_t count = 0;
  if (MOE_CUTE_NODE_DEPENDENCIES(node, nullptr, nullptr, &count) != cudaSuccess || count == 0) return false;
  std::vector<cudaGraphNode_t> nodes(count);
  std::vector<cudaGraphEdgeData> edges(count);
  if (MOE_CUTE_NODE_DEPENDENCIES(node, nodes.data(), edges.data(), &count) != cudaSuccess) return false;
  return std::any_of(edges.begin(), edges.end(),
                     [](auto const& edge) { return edge.type == cudaGraphDependencyTypeProgrammatic; });
}

void connect_to(cudaGraphNode_t kernel, cudaStream_t stream) {
  cudaGraphEdgeData edge{};
  edge.type = cudaGraphDependencyTypeProgrammatic;
  edge.from_port = cudaGraphKernelNodePortLaunchCompletion;
  // Where it is refused, the launch has the ordinary edge that it would have had: nothing to report.
  MOE_CUTE_UPDATE_DEPENDENCIES(stream, &kernel, &edge, 1, cudaStreamSetCaptureDependencies);
}
#else
cudaGraphNode_t kernel_before(cudaStream_t) { return nullptr; }
bool was_launched_programmatically(cudaGraphNode_t) { return false; }
void connect_to(cudaGraphNode_t, cudaStream_t) {}
#endif

}  // namespace

LaunchSite::LaunchSite(void* stream, Machine const& machine, bool may_overlap) : stream_(stream) {
  if (!may_overlap || !has_dependent_launch(machine)) return;
  auto const cuda_stream = static_cast<cudaStream_t>(stream);
  if (!is_capturing(cuda_stream)) {
    predecessor_ = Predecessor::kTriggering;
  } else if (cudaGraphNode_t const kernel = kernel_before(cuda_stream)) {
    captured_kernel_ = kernel;
    predecessor_ = was_launched_programmatically(kernel) ? Predecessor::kTriggering : Predecessor::kOrdinary;
  }
}

void LaunchSite::connect() const {
  if (captured_kernel_ == nullptr) return;
  connect_to(static_cast<cudaGraphNode_t>(captured_kernel_), static_cast<cudaStream_t>(stream_));
}

}  // namespace moe_cute
#else
namespace moe_cute {

LaunchSite::LaunchSite(void* stream, Machine const&, bool) : stream_(stream) {}
void LaunchSite::connect() const { (void)stream_; }

}  // namespace moe_cute
#endif
