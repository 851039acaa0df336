"""What torch needs to know about ``torch.ops.moe_cute``, whose schemas and kernels are in csrc/operator.cpp: the shapes of
its results, and its gradient."""

from typing import Any

import torch
from torch import Tensor

from moe_cute import _extension  # noqa: F401  (loading it defines the operators)


@torch.library.register_fake("moe_cute::sum_reduce")
def _(
    input: Tensor,
    routed_scaling_factor: float = 1.0,
    topk_weights: Tensor | None = None,
    topk_ids: Tensor | None = None,
    expert_map: Tensor | None = None,
    inv_permuted_idx: Tensor | None = None,
    shared_output: Tensor | None = None,
    num_tokens: Tensor | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    variant: str | None = None,
    pdl: bool = True,
) -> Tensor:
    rank = 3 if inv_permuted_idx is None else 2
    if input.dim() != rank:
        raise ValueError(f"input: was of shape {list(input.shape)}; allowed: {rank} dimensions, the last of them hidden")
    tokens = (input if inv_permuted_idx is None else inv_permuted_idx).shape[0]
    return input.new_empty((tokens, input.shape[-1]), dtype=out_dtype)


@torch.library.register_fake("moe_cute::sum_reduce_out")
def _(input: Tensor, output: Tensor, *_unused: Any, **_unused_by_name: Any) -> None:
    return None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    input, ctx.routed_scaling_factor = inputs[:2]
    ctx.shape, ctx.dtype = input.shape, input.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Every slot of a token has the same gradient: one row, seen topk times.
    scaled = grad if ctx.routed_scaling_factor == 1.0 else grad * ctx.routed_scaling_factor
    return scaled.to(ctx.dtype).unsqueeze(1).expand(ctx.shape), *(None,) * 7


torch.library.register_autograd("moe_cute::sum_reduce", _backward, setup_context=_setup_context)
