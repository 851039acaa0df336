"""Who is measured on the plain sum: one class each, all called the same way.

Every provider says why it cannot run on a machine (`available`) or at a point (`supports`), in words for the report.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks import peers, triton_peers
from benchmarks.operands import Operands
from benchmarks.shapes import Case

Call = Callable[[Operands], object]
PlainFunction = Callable[[Tensor, Tensor, float], object]

OURS = "moe_cute"
COPY = "copy"
SGL = "sgl"
TRITON = "triton"
TUNED = "triton_tuned"


class Provider(ABC):
    """A contender. `scales` is False for one that cannot apply routed_scaling_factor: it is timed without."""

    name: str
    scales = True

    def available(self, device: torch.device) -> str | None:
        """None, or the reason why it cannot run on `device`."""
        return None

    def supports(self, case: Case) -> str | None:
        """None, or the reason why it cannot run at `case`; calling it there anyway might take the process down."""
        return None if case.epilogue == "plain" else "plain sum only"

    @abstractmethod
    def prepare(self, case: Case, operands: Sequence[Operands], scale: float) -> Call:
        """Compile and tune for `case`; return what runs one call on the current stream, on any one of `operands`."""


class PlainProvider(Provider):
    """A contender that is a function of (input, output, routed_scaling_factor): its host time is measured as well."""

    @abstractmethod
    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        """The function as a user of it would call it."""

    def prepare(self, case: Case, operands: Sequence[Operands], scale: float) -> Call:
        function = self.function(case, operands, scale)
        return lambda each: function(each.input, each.output, scale)


class MoeCute(PlainProvider):
    name = OURS

    def available(self, device: torch.device) -> str | None:
        try:
            importlib.import_module("moe_cute")
        except ImportError as error:
            return f"moe_cute does not import: {error}"
        return None

    def supports(self, case: Case) -> str | None:
        return None

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        import moe_cute

        function: PlainFunction = moe_cute.sum_reduce
        return function

    def prepare(self, case: Case, operands: Sequence[Operands], scale: float) -> Call:
        if case.epilogue == "plain":
            return super().prepare(case, operands, scale)
        import moe_cute

        return lambda each: moe_cute.sum_reduce(
            each.input,
            each.output,
            scale,
            topk_weights=each.topk_weights,
            inv_permuted_idx=each.inv_permuted_idx,
            shared_output=each.shared_output,
            num_tokens=each.num_tokens,
        )


def torch_sum(input: Tensor, output: Tensor, routed_scaling_factor: float) -> None:
    torch.sum(input, dim=1, out=output)
    output.mul_(routed_scaling_factor)


class Torch(PlainProvider):
    name = "torch"

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        return torch_sum


class TorchCompile(PlainProvider):
    name = "compile"

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        # One shape at a time: else the guards of earlier shapes would pile up until Dynamo falls back to eager.
        torch.compiler.reset()
        return torch.compile(torch_sum, dynamic=False, fullgraph=True)


class Triton(PlainProvider):
    """This project's own kernel, launched as sglang's is, but its trigger comes before its wait: no engine runs it."""

    name = TRITON

    def available(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        return None if importlib.util.find_spec("triton") else "triton is not installed"

    def supports(self, case: Case) -> str | None:
        return super().supports(case) or _contiguous_only(case)

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        from benchmarks import triton_kernel

        return triton_kernel.as_engines_launch_it(case)


class TunedTriton(Triton):
    """The same kernel, launched the best of nine ways at each point: a bound on what Triton could do."""

    name = TUNED

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        from benchmarks import triton_kernel

        return triton_kernel.tuned(case, operands, scale)


def sgl_moe_sum_reduce(input: Tensor, output: Tensor, routed_scaling_factor: float) -> None:
    # The package's own wrapper does just this: no more and no less may stand here.
    torch.ops.sgl_kernel.moe_sum_reduce.default(input, output, routed_scaling_factor)


class SglKernel(PlainProvider):
    name = SGL

    def available(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        if torch.cuda.get_device_capability(device)[0] != 9:
            return f"the binary taken from its wheel is {peers.SGL_KERNEL.member}: sm_90 only"
        return _loads(peers.SGL_KERNEL, lambda: torch.ops.sgl_kernel.moe_sum_reduce.default)

    def supports(self, case: Case) -> str | None:
        # It checks no alignment, and a misaligned 16-byte load is a fault that ends the process.
        return super().supports(case) or _contiguous_only(case) or _aligned_only(case)

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        return sgl_moe_sum_reduce


class SglangTriton(PlainProvider):
    """sglang's Triton kernel, which it runs instead of sgl's for few tokens."""

    name = "sglang_triton"

    def available(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        try:
            triton_peers.sglang_sum_reduce()
        except (peers.PeerError, ImportError, AttributeError) as error:
            return str(error).splitlines()[0]
        return None

    def supports(self, case: Case) -> str | None:
        if case.dtype == "float64":
            return "no float64: it accumulates in float32"
        return super().supports(case) or _contiguous_only(case)

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        return triton_peers.sglang_sum_reduce()


def vllm_moe_sum(input: Tensor, output: Tensor, routed_scaling_factor: float) -> None:
    torch.ops._moe_C.moe_sum(input, output, None, None)


class Vllm(PlainProvider):
    name = "vllm"
    scales = False

    def available(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        return _loads(peers.VLLM_MOE, lambda: torch.ops._moe_C.moe_sum.default)

    def supports(self, case: Case) -> str | None:
        if case.dtype == "float64":
            return "no float64"
        return super().supports(case) or _contiguous_only(case) or _aligned_only(case)

    def function(self, case: Case, operands: Sequence[Operands], scale: float) -> PlainFunction:
        return vllm_moe_sum


class Copy(Provider):
    """The roofline: a copy that moves as many bytes as the case must, half of them read, half written."""

    name = COPY
    scales = False

    def supports(self, case: Case) -> str | None:
        return super().supports(case) or (None if case.layout == "contiguous" else "contiguous only")

    def prepare(self, case: Case, operands: Sequence[Operands], scale: float) -> Call:
        elements = case.bytes_moved // 2 // case.torch_dtype.itemsize
        sources = {id(each): each.input.view(-1)[:elements] for each in operands}
        targets = {key: torch.empty_like(source) for key, source in sources.items()}
        return lambda each: targets[id(each)].copy_(sources[id(each)])


PLAIN: tuple[Provider, ...] = (
    MoeCute(),
    Torch(),
    TorchCompile(),
    SglKernel(),
    SglangTriton(),
    Vllm(),
    Triton(),
    TunedTriton(),
    Copy(),
)


def _contiguous_only(case: Case) -> str | None:
    return "contiguous input only" if case.layout == "padded_rows" else None


def _aligned_only(case: Case) -> str | None:
    return "aligned input only" if case.layout == "offset" else None


def _loads(peer: peers.PeerFile, operator: Callable[[], object]) -> str | None:
    try:
        peers.load_library(peer)
        operator()
    except (peers.PeerError, OSError, AttributeError) as error:
        return str(error).splitlines()[0]
    return None
