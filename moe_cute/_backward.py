"""The gradients of sum_reduce, in three operators that are each other's adjoints:

``sum_reduce(x, w)[t] = s * sum_k w[t, k] * x[row(t, k)]``, ``slot_dot(g, x)[t, k] = s * <g[t], x[row(t, k)]>`` and
``row_sum(g, w)[r] = s * sum of w[t, k] * g[t] over the slots (t, k) that read row r``. So gradients have gradients too.

Nothing here reads device data on the host, and every sum has a fixed order.
"""

import math
from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.moe_cute


def save_for_sum_reduce(
    ctx: Any,
    input: Tensor,
    scale: float = 1.0,
    weights: Tensor | None = None,
    topk_ids: Tensor | None = None,
    expert_map: Tensor | None = None,
    inv_permuted_idx: Tensor | None = None,
    shared_output: Tensor | None = None,
    num_tokens: Tensor | None = None,
) -> None:
    """Of ``sum_reduce``. The input is kept only where the gradient of the weights will ask for it."""
    kept_input = input if weights is not None and weights.requires_grad else None
    ctx.save_for_backward(kept_input, weights, topk_ids, expert_map, inv_permuted_idx, num_tokens)
    ctx.scale, ctx.input_shape, ctx.input_dtype = scale, input.shape, input.dtype


def sum_reduce_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of ``sum_reduce``: for input, topk_weights and shared_output."""
    input, weights, topk_ids, expert_map, inv_permuted_idx, num_tokens = ctx.saved_tensors
    wants_input, wants_weights, wants_shared = _wanted(ctx, 0, 2, 6)
    shape, dtype = ctx.input_shape, ctx.input_dtype
    is_plain = weights is None and topk_ids is None and inv_permuted_idx is None

    is_live = None if num_tokens is None else torch.arange(grad.shape[0], device=grad.device) < num_tokens.reshape(())
    of_shared, of_input, of_weights = grad, None, None
    if is_live is not None and (is_plain or wants_shared):
        # A dead token's output was never written: whatever came back for it is no gradient.
        of_shared = grad.masked_fill(~is_live[:, None], 0)
    if is_plain and wants_input:
        of_input = _broadcast(of_shared, ctx.scale, dtype).unsqueeze(1).expand(shape)
    if not is_plain and (wants_input or wants_weights):
        wide = _accumulator_of(dtype)
        if grad.dtype not in (dtype, wide):
            grad = grad.to(wide)
        row_of_slot = _row_of_slot(shape, is_live, topk_ids, expert_map, inv_permuted_idx, grad.device)
        if wants_input:
            wide_weights = None if weights is None else weights.to(wide)
            of_input = _input_gradient(grad, ctx.scale, wide_weights, row_of_slot, shape, dtype)
        if wants_weights:
            of_weights = _ops.slot_dot(grad, input, row_of_slot, ctx.scale).to(weights.dtype)
    return of_input, None, of_weights, None, None, None, of_shared if wants_shared else None, None


def _wanted(ctx: Any, *arguments: int) -> tuple[bool, ...]:
    """Whether a gradient is asked for, by position; trailing arguments that the caller left out have none."""
    needed = ctx.needs_input_grad[1:]  # without the call itself (_autograd.py)
    return tuple(at < len(needed) and needed[at] for at in arguments)


def _accumulator_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def _broadcast(grad: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The gradient that every slot of a token shares, before it is seen topk times."""
    if scale == 1.0:
        return grad.to(dtype)
    return (grad.to(torch.promote_types(grad.dtype, dtype)) * scale).to(dtype)


def _row_of_slot(
    input_shape: torch.Size,
    is_live: Tensor | None,
    topk_ids: Tensor | None,
    expert_map: Tensor | None,
    inv_permuted_idx: Tensor | None,
    device: torch.device,
) -> Tensor:
    """``[tokens, topk]``, int64: the row of each slot, counted over all but the input's last dimension; -1: skipped."""
    if inv_permuted_idx is None:
        tokens, topk = input_shape[:2]
        rows, reads = torch.arange(tokens * topk, device=device).view(tokens, topk), None
    else:
        rows = inv_permuted_idx.long()
        reads = (rows >= 0) & (rows < input_shape[0])
    for condition in (None if is_live is None else is_live[:, None], is_local(topk_ids, expert_map)):
        if condition is not None:
            reads = condition if reads is None else reads & condition
    return rows.contiguous() if reads is None else torch.where(reads, rows, -1).contiguous()


def is_local(topk_ids: Tensor | None, expert_map: Tensor | None) -> Tensor | None:
    """``[tokens, topk]``: whether each slot's expert lives here; None where every one does."""
    if topk_ids is None or expert_map is None:
        return None if topk_ids is None else topk_ids >= 0
    # One more expert, for every id past the end.
    past_end = torch.nn.functional.pad(expert_map, (0, 1), value=-1)
    return (topk_ids >= 0) & (past_end[topk_ids.clamp(0, expert_map.shape[0]).long()] >= 0)


def _input_gradient(
    grad: Tensor, scale: float, weights: Tensor | None, row_of_slot: Tensor, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    if len(shape) == 2:
        return _row_sum(grad, row_of_slot, scale, weights, shape[0], dtype)
    # Each row has a slot of its own: its gradient is a sum over one token.
    tokens = torch.arange(shape[0], device=grad.device)[:, None]
    token_of_row = torch.where(row_of_slot >= 0, tokens, -1).view(-1, 1)
    weight_of_row = None if weights is None else weights.reshape(-1, 1)
    rows: Tensor = _ops.sum_reduce(
        grad, scale, topk_weights=weight_of_row, inv_permuted_idx=token_of_row, out_dtype=dtype
    )
    return rows.view(shape)


def _row_sum(
    grad: Tensor, row_of_slot: Tensor, scale: float, weights: Tensor | None, rows: int, dtype: torch.dtype
) -> Tensor:
    """Any number of slots may read a row. Sorted by row they stand side by side, in their own order, since the sort is
    stable; the skipped ones stand in front of row 0."""
    row, slot_order = row_of_slot.flatten().sort(stable=True)
    first_slot = torch.searchsorted(row, torch.arange(rows + 1, device=grad.device))
    weights = None if weights is None else weights.contiguous()
    sums: Tensor = _ops.row_sum(grad, row_of_slot, slot_order, first_slot, scale, weights, dtype)
    return sums


def save_for_slot_dot(ctx: Any, grad: Tensor, input: Tensor, row_of_slot: Tensor, scale: float) -> None:
    ctx.scale = scale
    ctx.save_for_backward(grad, input, row_of_slot)


def slot_dot_backward(ctx: Any, products: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, row_of_slot = ctx.saved_tensors
    wants_grad, wants_input = _wanted(ctx, 0, 1)
    of_grad = of_input = None
    if wants_grad:
        of_grad = _weighted_sum(input, row_of_slot, ctx.scale, products, grad.dtype)
    if wants_input:
        of_input = _input_gradient(grad, ctx.scale, products, row_of_slot, input.shape, input.dtype)
    return of_grad, of_input, None, None


def save_for_row_sum(
    ctx: Any,
    grad: Tensor,
    row_of_slot: Tensor,
    slot_order: Tensor,
    first_slot: Tensor,
    scale: float,
    weights: Tensor | None,
    out_dtype: torch.dtype,
) -> None:
    ctx.scale = scale
    ctx.save_for_backward(grad, row_of_slot, weights)


def row_sum_backward(ctx: Any, rows: Tensor) -> tuple[Tensor | None, ...]:
    grad, row_of_slot, weights = ctx.saved_tensors
    wants_grad, wants_weights = _wanted(ctx, 0, 5)
    of_grad = of_weights = None
    if wants_grad:
        of_grad = _weighted_sum(rows, row_of_slot, ctx.scale, weights, grad.dtype)
    if wants_weights:
        of_weights = _ops.slot_dot(grad, rows, row_of_slot, ctx.scale)
    return of_grad, None, None, None, None, of_weights, None


def _weighted_sum(
    input: Tensor, row_of_slot: Tensor, scale: float, weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    rows = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])  # vmap has no rule for flatten
    sums: Tensor = _ops.sum_reduce(rows, scale, topk_weights=weights, inv_permuted_idx=row_of_slot, out_dtype=dtype)
    return sums
