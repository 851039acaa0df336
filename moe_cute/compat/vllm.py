"""Stands in for `vllm._custom_ops.moe_sum` and the operator `torch.ops._moe_C.moe_unpermute`."""

import torch
from torch import Tensor

from moe_cute._checks import ANY_INDEX, expect_dense_tensors, expect_int, expect_tensors, name_of, renamed
from moe_cute._front import sum_reduce


def moe_sum(input: Tensor, output: Tensor, topk_ids: Tensor | None = None, expert_map: Tensor | None = None) -> None:
    """``vllm``'s ``moe_sum``: writes ``input.sum(1)`` into ``output``.

    Args:
        input: ``[tokens, topk, hidden]``.
        output: ``[tokens, hidden]``.
        topk_ids: ``[tokens, topk]``, int32 or int64: slots of experts that are not local are skipped, and not read.
        expert_map: ``[experts]``, int32: local index of each expert, negative where it is not local; only with
            ``topk_ids``.
    """
    expect_tensors(output=output)
    sum_reduce(input, output, topk_ids=topk_ids, expert_map=expert_map)


def moe_unpermute(
    permuted_hidden_states: Tensor,
    topk_weights: Tensor,
    inv_permuted_idx: Tensor,
    expert_first_token_offset: Tensor | None,
    topk: int,
    hidden_states: Tensor,
) -> None:
    """``torch.ops._moe_C.moe_unpermute``: writes the weighted sum of each token's rows into ``hidden_states``.

    With ``expert_first_token_offset``, two of torch's kernels run first, and allocate an index of their own.

    Args:
        permuted_hidden_states: ``[rows, hidden]``, sorted by expert.
        topk_weights: ``[tokens, topk]``, float32.
        inv_permuted_idx: ``[tokens, topk]`` or flat ``[tokens * topk]``, int32 or int64: the row of each slot.
        expert_first_token_offset: ``[local experts + 1]``, int32 or int64: rows from its last entry on belong to no
            local expert and are skipped. None where every row is local.
        topk: slots of a token.
        hidden_states: ``[tokens, hidden]``, written.
    """
    tensors = {
        "permuted_hidden_states": permuted_hidden_states,
        "topk_weights": topk_weights,
        "inv_permuted_idx": inv_permuted_idx,
        "hidden_states": hidden_states,
    }
    expect_tensors(**tensors)
    try:
        rows = _rows_of_slots(topk_weights, inv_permuted_idx, expert_first_token_offset, topk)
        sum_reduce(permuted_hidden_states, hidden_states, topk_weights=topk_weights, inv_permuted_idx=rows)
    except (TypeError, ValueError, RuntimeError) as error:
        expect_dense_tensors(**tensors)  # only now: it costs half as much as the whole call
        if isinstance(error, RuntimeError):
            raise
        raise renamed(error, input="permuted_hidden_states", output="hidden_states") from None


def _rows_of_slots(topk_weights: Tensor, inv_permuted_idx: Tensor, offsets: Tensor | None, topk: int) -> Tensor:
    """``[tokens, topk]``: the row of each slot, negative where it is skipped."""
    if topk_weights.dim() != 2:
        raise ValueError(f"topk_weights: was of shape {list(topk_weights.shape)}; allowed: shape [tokens, topk]")
    expect_int("topk", topk)
    if topk_weights.shape[1] != topk:
        raise ValueError(f"topk: was {topk}; allowed: as many slots as topk_weights {list(topk_weights.shape)} has")
    if inv_permuted_idx.shape not in (topk_weights.shape, (topk_weights.numel(),)):
        raise ValueError(
            f"inv_permuted_idx: was of shape {list(inv_permuted_idx.shape)}; allowed: that of topk_weights, "
            f"{list(topk_weights.shape)}, or as many in a row"
        )
    rows = inv_permuted_idx.reshape(topk_weights.shape)
    if offsets is None:
        return rows
    _expect_offsets(offsets, inv_permuted_idx)
    return rows.where(rows < offsets[-1], -1)


def _expect_offsets(offsets: Tensor, inv_permuted_idx: Tensor) -> None:
    """Raises TypeError or ValueError for what cannot be compared, or would be by another rule."""
    expect_dense_tensors(expert_first_token_offset=offsets)
    for name, index in {"inv_permuted_idx": inv_permuted_idx, "expert_first_token_offset": offsets}.items():
        if index.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name}: was of dtype {name_of(index.dtype)}; allowed: {ANY_INDEX}")
    if offsets.dim() != 1 or offsets.shape[0] == 0:
        raise ValueError(
            f"expert_first_token_offset: was of shape {list(offsets.shape)}; allowed: shape [local experts + 1]"
        )
    if offsets.device != inv_permuted_idx.device:
        raise ValueError(
            f"expert_first_token_offset: was on {offsets.device}; allowed: the device of inv_permuted_idx, "
            f"{inv_permuted_idx.device}"
        )
