"""MOE_CUTE_CHECK=1: ids and rows past their ends, which are else skipped, are errors."""

import os

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack

from moe_cute._backward import is_local

CHECKING = os.environ.get("MOE_CUTE_CHECK", "").lower() not in ("", "0", "false", "no", "off")


def check_ids_and_rows(
    input: Tensor,
    topk_ids: Tensor | None,
    expert_map: Tensor | None,
    inv_permuted_idx: Tensor | None,
    num_tokens: Tensor | None,
) -> None:
    """Raises ValueError naming the first slot that would be read past an end. Synchronises with the device.

    What has no values to look at passes: subclasses, calls under a dispatch mode or torch.func's transforms. So does
    what is refused anyway.
    """
    indices = [each for each in (topk_ids, expert_map, inv_permuted_idx, num_tokens) if each is not None]
    if not all(_has_values(tensor) and tensor.device == input.device for tensor in (input, *indices)):
        return
    if not all(index.dtype in (torch.int32, torch.int64) for index in indices):
        return
    slots = inv_permuted_idx if inv_permuted_idx is not None else topk_ids
    if slots is None or slots.dim() != 2 or (topk_ids is not None and topk_ids.shape != slots.shape):
        return
    reads = torch.ones_like(slots, dtype=torch.bool)
    if num_tokens is not None and num_tokens.numel() == 1:
        reads[max(0, int(num_tokens)) :] = False
    if expert_map is not None and expert_map.dim() != 1:
        expert_map = None
    if topk_ids is not None and expert_map is not None:
        _check_below("topk_ids", topk_ids, reads, expert_map.shape[0], "experts in expert_map")
    local = is_local(topk_ids, expert_map)
    if local is not None:
        reads &= local
    if inv_permuted_idx is not None and input.dim() == 2:
        _check_below("inv_permuted_idx", inv_permuted_idx, reads, input.shape[0], "rows in input")


def _check_below(name: str, indices: Tensor, reads: Tensor, count: int, counted: str) -> None:
    past = (reads & (indices >= count)).nonzero()
    if past.shape[0]:
        slot = past[0].tolist()
        raise ValueError(
            f"{name}: was {indices[tuple(slot)].item()} in slot {slot}; allowed: less than the {count} {counted}"
        )


def _has_values(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided or tensor.is_nested:
        return False
    if tensor.is_meta or _len_torch_dispatch_stack() or peek_interpreter_stack() is not None:
        return False
    return tensor.numel() == 0 or tensor.data_ptr() != 0
