"""Refusals that need Python: what a tensor is, rather than its shape and place, which C++ checks."""

import math

import torch
from torch import Tensor


def _refusal(name: str, tensor: object) -> str | None:
    if tensor is None:
        return None
    if not isinstance(tensor, Tensor):
        return f"{name}: was of type {type(tensor).__name__}; allowed: a torch.Tensor"
    if tensor.is_quantized:
        return f"{name}: was quantized ({tensor.dtype}); allowed: float16, bfloat16, float32 or float64"
    if tensor.layout != torch.strided:
        return f"{name}: was of layout {tensor.layout}; allowed: a dense tensor (torch.strided)"
    return None


def refuse_unusable(routed_scaling_factor: object, variant: object, **tensors: object) -> None:
    """Raises TypeError for what is no dense tensor, a scale that is no number, or a variant that is no name."""
    meta = all(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors.values() if tensor is not None)
    for name, tensor in tensors.items():
        if tensor is None and name == "input":
            raise TypeError("input: was None; allowed: a torch.Tensor")
        refusal = None if meta else _refusal(name, tensor)
        if refusal is not None:
            raise TypeError(refusal)
        if isinstance(tensor, Tensor) and not meta and tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"{name}: was on another device, {tensor.device}; allowed: the input's device, cpu or cuda"
            )
    if variant is not None and not isinstance(variant, str):
        raise TypeError(
            f"variant: was of type {type(variant).__name__}; allowed: a str, the name of a variant, or None"
        )
    number = (float, int, torch.SymFloat, torch.SymInt)
    if isinstance(routed_scaling_factor, bool) or not isinstance(routed_scaling_factor, number):
        raise TypeError(
            f"routed_scaling_factor: was of type {type(routed_scaling_factor).__name__}; allowed: a float or an int"
        )
    # Compiled code asks the operator, which refuses it too: a symbol's value is not known here.
    if not torch.compiler.is_compiling() and math.isnan(routed_scaling_factor):
        raise ValueError("routed_scaling_factor: was nan; allowed: a number")


def clearer(error: Exception, routed_scaling_factor: object, variant: object, **tensors: object) -> Exception:
    """The error itself, or the better one where an argument is of a kind that could not even be looked at."""
    try:
        refuse_unusable(routed_scaling_factor, variant, **tensors)
    except (TypeError, ValueError) as better:
        return better
    return error


def refuse_gradient(output: Tensor, **tensors: Tensor | None) -> None:
    """Raises ValueError where autograd would have to follow a write into ``output``."""
    if output.requires_grad:
        raise ValueError("output: was a tensor that requires grad; allowed: one that does not, or None")
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.requires_grad:
                raise ValueError(
                    f"output: was given while {name} requires grad; allowed: None, so that autograd follows, or a call "
                    "under torch.no_grad()"
                )


def check_ids_and_rows(
    input: Tensor, topk_ids: Tensor | None, expert_map: Tensor | None, inv_permuted_idx: Tensor | None
) -> None:
    """Raises ValueError naming the first slot past an end (``MOE_CUTE_CHECK=1``). Synchronises with the device."""
    if topk_ids is not None and expert_map is not None:
        _check_below("topk_ids", topk_ids, expert_map.shape[0], "experts in expert_map")
    if inv_permuted_idx is not None:
        _check_below("inv_permuted_idx", inv_permuted_idx, input.shape[0], "rows in input")


def _check_below(name: str, indices: Tensor, count: int, counted: str) -> None:
    past = (indices >= count).nonzero()
    if past.shape[0]:
        slot = past[0].tolist()
        raise ValueError(
            f"{name}: was {indices[tuple(slot)].item()} in slot {slot}; allowed: less than the {count} {counted}"
        )
