"""Stands in for the operator `torch.ops.sgl_kernel.moe_sum_reduce`; its wrapper names the tensors otherwise."""

from torch import Tensor

from moe_cute._checks import expect_tensors
from moe_cute._front import sum_reduce


def moe_sum_reduce(input: Tensor, output: Tensor, routed_scaling_factor: float = 0) -> None:
    """``torch.ops.sgl_kernel.moe_sum_reduce``: writes ``routed_scaling_factor * input.sum(1)`` into ``output``.

    Args:
        input: ``[tokens, topk, hidden]``.
        output: ``[tokens, hidden]``, of the input's dtype.
        routed_scaling_factor: the default is that package's, 0.

    Raises:
        ValueError, TypeError: as ``moe_cute.sum_reduce``, where that package fails at the launch or leaves columns
            unwritten.
    """
    expect_tensors(output=output)
    sum_reduce(input, output, routed_scaling_factor)
