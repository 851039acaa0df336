"""Refusals that need Python: what a tensor is, rather than its shape and place, which C++ checks."""

import math
import re
import sys

import torch
from torch import Tensor


def _refusal(name: str, tensor: object) -> str | None:
    if tensor is None:
        return None
    if not isinstance(tensor, Tensor):
        return _no_tensor(name, tensor)
    if tensor.is_quantized:
        return f"{name}: was quantized ({tensor.dtype}); allowed: float16, bfloat16, float32 or float64"
    if tensor.layout != torch.strided:
        return f"{name}: was of layout {tensor.layout}; allowed: a dense tensor (torch.strided)"
    return None


def _no_tensor(name: str, value: object) -> str:
    return f"{name}: was of type {type(value).__name__}; allowed: a torch.Tensor"


def expect_tensors(**tensors: object) -> None:
    """Raises TypeError for one that is missing."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(_no_tensor(name, tensor))


def expect_dense_tensors(**tensors: object) -> None:
    """Raises TypeError for one that is missing, or is no dense tensor."""
    expect_tensors(**tensors)
    for name, tensor in tensors.items():
        refusal = _refusal(name, tensor)
        if refusal is not None:
            raise TypeError(refusal)


def expect_ranks(input: Tensor, inv_permuted_idx: Tensor | None) -> None:
    """Raises ValueError for what has too few or too many dimensions to tell the output's shape."""
    expected = [("input", input, 3, "[tokens, topk, hidden]")]
    if inv_permuted_idx is not None:
        expected = [
            ("input", input, 2, "[rows, hidden], since inv_permuted_idx is given"),
            ("inv_permuted_idx", inv_permuted_idx, 2, "[tokens, topk]"),
        ]
    for name, tensor, rank, shape in expected:
        if tensor.dim() != rank:
            raise ValueError(f"{name}: was of shape {list(tensor.shape)}; allowed: shape {shape}")


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
    if isinstance(routed_scaling_factor, int) and abs(routed_scaling_factor) > sys.float_info.max:
        raise ValueError("routed_scaling_factor: was an int beyond float64; allowed: a float or an int")
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
                    f"output: was given while {name} requires grad; allowed: moe_cute.sum_reduce without it, which "
                    "autograd follows, or a call under torch.no_grad()"
                )


_REFUSAL = re.compile(r"\w+: was (of d?type )?.*; allowed: ", re.DOTALL)


def refusal_of(error: Exception) -> Exception:
    """The refusal that an operator raised, in the class that the direct way raises: in which class an operator's
    exceptions come depends on torch's version."""
    found = _REFUSAL.search(str(error))
    if found is None:
        return error
    kind = TypeError if found[1] else ValueError
    return kind(str(error)[found.start() :])


def renamed(error: Exception, **names: str) -> Exception:
    """The refusal in the words of a function whose arguments have other names."""
    words = rf"\b({'|'.join(names)})\b"
    return type(error)(re.sub(words, lambda found: names[found[0]], str(error)))


def refuse_mixed_devices(input: Tensor, **tensors: Tensor | None) -> None:
    """Raises ValueError for a tensor that is not on the input's device, among tensors without memory."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name}: was on {tensor.device}; allowed: the input's device, {input.device}")
