"""Refusals that need Python: what a tensor is, rather than its shape and place, which C++ checks."""

import math
import re
import sys
from typing import SupportsIndex

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ANY_FLOAT = "float16, bfloat16, float32 or float64"
ANY_INDEX = "int32 or int64"
_ALLOWED_INDICES = {"topk_ids": ANY_INDEX, "inv_permuted_idx": ANY_INDEX, "expert_map": "int32", "num_tokens": "int32"}


def _refusal(name: str, tensor: object) -> str | None:
    if tensor is None:
        return None
    if not isinstance(tensor, Tensor):
        return _no_tensor(name, tensor)
    if tensor.is_quantized:
        return f"{name}: was quantized ({tensor.dtype}); allowed: {_ALLOWED_INDICES.get(name, ANY_FLOAT)}"
    if tensor.layout != torch.strided:
        return f"{name}: was of layout {tensor.layout}; allowed: a dense tensor (torch.strided)"
    if tensor.is_nested:
        return f"{name}: was a nested tensor; allowed: a dense tensor"
    dtype = name_of(tensor.dtype)
    if dtype.startswith("bits"):  # DLPack and the stable ABI have no name for these
        return f"{name}: was of dtype {dtype}; allowed: {_ALLOWED_INDICES.get(name, ANY_FLOAT)}"
    return None


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def expect_int(name: str, value: object) -> None:
    if not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}: was of type {type(value).__name__}; allowed: an int")


def expect_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: was of type {type(value).__name__}; allowed: True or False")


def expect_dtype(name: str, dtype: object) -> None:
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name}: was of type {type(dtype).__name__}; allowed: a torch.dtype")


def expect_out_dtype(out_dtype: object, output: Tensor | None) -> None:
    """Raises TypeError for what is no dtype of an output, or not that of the one that is given."""
    if out_dtype is None:
        return
    expect_dtype("out_dtype", out_dtype)
    if output is not None and out_dtype != output.dtype:
        raise TypeError(f"out_dtype: was {out_dtype}; allowed: the output's {output.dtype}, or None")
    if out_dtype not in FLOATS:
        raise TypeError(f"out_dtype: was {out_dtype}; allowed: {ANY_FLOAT}")


def refuse_unusable(
    routed_scaling_factor: object, out_dtype: object, variant: object, pdl: object, **tensors: object
) -> None:
    """Raises TypeError or ValueError for what C++ cannot look at: what is no dense tensor on a CPU or GPU, a scale that
    is no number, an option of the wrong type."""
    input, others = tensors["input"], {name: tensor for name, tensor in tensors.items() if name != "input"}
    if input is None:
        raise TypeError("input: was None; allowed: a torch.Tensor")
    meta = all(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors.values() if tensor is not None)
    if not meta:
        for name, tensor in tensors.items():
            refusal = _refusal(name, tensor)
            if refusal is not None:
                raise TypeError(refusal)
        _refuse_devices(input, others)  # type: ignore[arg-type]
    expect_out_dtype(out_dtype, others["output"])  # type: ignore[arg-type]
    expect_bool("pdl", pdl)
    if variant is not None and not isinstance(variant, str):
        raise TypeError(
            f"variant: was of type {type(variant).__name__}; allowed: a str, the name of a variant, or None"
        )
    if isinstance(variant, str) and not variant.isascii():  # C++ cannot be told every one of them
        raise ValueError(f"variant: was {variant!a}; allowed: one of moe_cute.variants(), or None")
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


def _refuse_devices(input: Tensor, others: dict[str, Tensor | None]) -> None:
    if input.is_meta:
        refuse_mixed_devices(input, **others)
    for name, tensor in {"input": input, **others}.items():
        if tensor is not None and tensor.device.type not in ("cpu", "cuda"):
            home = "" if name == "input" else "the input's device, "
            raise ValueError(f"{name}: was on another device, {tensor.device}; allowed: {home}cpu or cuda")


def clearer(error: Exception, *options: object, **tensors: object) -> Exception:
    """The error itself, or the better one where an argument is of a kind that could not even be looked at."""
    try:
        refuse_unusable(*options, **tensors)
    except (TypeError, ValueError) as better:
        return better
    return error if tensors["output"] is not None else of_made_output(error)


def of_made_output(error: Exception) -> Exception:
    """An output that is made here has the dtype that was asked for: it is that which is refused."""
    of_dtype = "output: was of dtype "
    told = str(error)
    return TypeError(f"out_dtype: was torch.{told.removeprefix(of_dtype)}") if told.startswith(of_dtype) else error


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
