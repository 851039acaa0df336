"""`explain`: which variant a call takes, and why each better one was refused."""

import math
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from moe_cute._checks import (
    expect_bool,
    expect_dense_tensors,
    expect_dtype,
    expect_int,
    expect_out_dtype,
    of_made_output,
)
from moe_cute._description import description
from moe_cute._extension import _C
from moe_cute._limits import (
    FIRST_ARCHITECTURE,
    H100_L2_MIB,
    H100_MULTIPROCESSORS,
    LAST_ARCHITECTURE,
    MOST_ELEMENTS,
    MOST_L2_MIB,
    MOST_MULTIPROCESSORS,
)

BEHIND = ("trigger", "ordinary")


@dataclass(frozen=True)
class Explanation:
    """The choice for one call. ``str()`` prints it for a person; ``as_dict()`` is for programs."""

    variant: str | None
    """The chosen variant's name, or None where every variant was refused."""
    threads: int
    """Threads in a CUDA block; 0 on a CPU."""
    prefetch_kib: int
    """How many KiB of the rows each multiprocessor asks for before the kernel before has ended; 0: none."""
    measured: bool
    """Whether the launch is one of a tuning file for this architecture, not made or mended by a rule."""
    refused: tuple[tuple[str, str], ...]
    """Name and reason of each variant that was preferred but cannot run the call."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.variant is None:
            head = "no variant runs this call" + ("" if self.refused else ": this build has none for its dtype")
        elif self.threads:
            origin = "measured" if self.measured else "heuristic"
            prefetch = f", {self.prefetch_kib} KiB of prefetch" if self.prefetch_kib else ""
            head = f"{self.variant} ({self.threads} threads a block{prefetch}; {origin})"
        else:
            head = self.variant
        return "\n".join([head, *(f"  not {name}: {reason}" for name, reason in self.refused)])


def variants() -> list[dict[str, Any]]:
    """Every variant of this build's table, in its order: name, backend, dtype, hidden and topk (0: any), vector_width
    in elements, instruction_set, epilogue, unaligned (a GPU's vectors may start at any element), built."""
    return list(_C.variants())


def explain(
    input: Tensor | Sequence[int],
    output: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    topk_weights: Tensor | bool | None = None,
    topk_ids: Tensor | bool | None = None,
    expert_map: Tensor | bool | None = None,
    inv_permuted_idx: Tensor | Sequence[int] | None = None,
    shared_output: Tensor | bool | None = None,
    num_tokens: Tensor | bool | None = None,
    out_dtype: torch.dtype | None = None,
    architecture: int = 0,
    multiprocessors: int = H100_MULTIPROCESSORS,
    l2_mib: int = H100_L2_MIB,
    pdl: bool = True,
    behind: str = "trigger",
) -> Explanation:
    """Tells which variant ``sum_reduce`` would take. Nothing is run.

    Args:
        input: the tensor of the call, or only its shape ``(tokens, topk, hidden)``; then ``dtype`` and ``device`` say
            the rest, the tensors are taken to be contiguous and aligned, and True stands for each optional tensor that
            the call would have, the shape ``(tokens, topk)`` for ``inv_permuted_idx``.
        output: the output of the call, where it matters (its strides, its alignment, its dtype).
        architecture: 90 for sm_90; 0 asks the device. With a number and ``device="cuda"``, a machine without a GPU can
            explain a CUDA call.
        multiprocessors: of that GPU; by default those of an H100 or H200.
        l2_mib: MiB of its L2 cache: 50 for an H100, 60 for an H200.
        pdl: as for ``sum_reduce``. Another block or vector may suit a launch that does not overlap.
        behind: ``"trigger"``, in a stream, or in a CUDA graph behind a kernel that lets the next one start early;
            ``"ordinary"``, in a CUDA graph behind one that does not, whose output is still in the L2 cache.

    Raises:
        ValueError, TypeError: as ``sum_reduce``.
        RuntimeError: there is no GPU to ask for its architecture.
    """
    for name, number in {"architecture": architecture, "multiprocessors": multiprocessors, "l2_mib": l2_mib}.items():
        expect_int(name, number)
    if architecture != 0 and not FIRST_ARCHITECTURE <= architecture <= LAST_ARCHITECTURE:
        allowed = f"0, or {FIRST_ARCHITECTURE} to {LAST_ARCHITECTURE}"
        raise ValueError(f"architecture: was {architecture}; allowed: {allowed}")
    if not 1 <= multiprocessors <= MOST_MULTIPROCESSORS:
        raise ValueError(f"multiprocessors: was {multiprocessors}; allowed: 1 to {MOST_MULTIPROCESSORS}")
    if not 1 <= l2_mib <= MOST_L2_MIB:
        raise ValueError(f"l2_mib: was {l2_mib}; allowed: 1 to {MOST_L2_MIB}")
    if behind not in BEHIND:
        raise ValueError(f"behind: was {behind!r}; allowed: {', '.join(map(repr, BEHIND))}")
    expect_bool("pdl", pdl)
    expect_dtype("dtype", dtype)
    if output is not None:
        expect_dense_tensors(output=output)
    expect_out_dtype(out_dtype, output)
    given = _given_input(input, dtype, device)
    if architecture != 0 and given.device.type != "cuda":
        raise ValueError(f"architecture: was {architecture}, on {given.device}; allowed: 0, but with device='cuda'")
    slots = given.shape[:2] if inv_permuted_idx is None else _shape_of_slots(inv_permuted_idx)
    tokens, topk = (*slots, 0, 0)[:2]
    hidden = given.shape[-1] if len(given.shape) else 0
    result_dtype = output.dtype if output is not None else out_dtype or given.dtype

    def described(name: str, tensor: Any, shape: tuple[int, ...], default: torch.dtype) -> Any:
        if isinstance(tensor, Tensor):
            expect_dense_tensors(**{name: tensor})
            return tensor
        if tensor is None or tensor is False:
            return None
        if tensor is not True:
            raise TypeError(
                f"{name}: was of type {type(tensor).__name__}; allowed: a torch.Tensor, True, False or None"
            )
        return _Described(name, shape, default, given.device)

    tensors = (
        given,
        output if output is not None else _Described("output", (tokens, hidden), result_dtype, given.device),
        described("topk_weights", topk_weights, (tokens, topk), torch.float32),
        described("topk_ids", topk_ids, (tokens, topk), torch.int32),
        described("expert_map", expert_map, (1,), torch.int32),
        inv_permuted_idx
        if inv_permuted_idx is None or isinstance(inv_permuted_idx, Tensor)
        else _Described("inv_permuted_idx", (tokens, topk), torch.int32, given.device),
        described("shared_output", shared_output, (tokens, hidden), result_dtype),
        described("num_tokens", num_tokens, (1,), torch.int32),
    )
    descriptions = (description(tensor, place) for place, tensor in enumerate(tensors))
    machine = (architecture, multiprocessors, l2_mib)
    try:
        choice = _C.explain(*descriptions, 1.0, *machine, behind if pdl else "nothing")
    except TypeError as error:
        raise (error if output is not None else of_made_output(error)) from None
    except RuntimeError as error:
        raise RuntimeError(
            f"device: was {given.device}, which does not answer ({error}); allowed: a GPU that does, or the "
            "architecture of the one you mean"
        ) from error
    variant, threads, prefetch_kib, measured, refused = choice
    return Explanation(variant, threads, prefetch_kib, measured, tuple(refused))


def _given_input(input: Any, dtype: torch.dtype, device: Any) -> Any:
    if isinstance(input, Tensor):
        expect_dense_tensors(input=input)
        return input
    shape = _shape("input", input, "(tokens, topk, hidden)")
    try:
        place = torch.device(device)
    except (TypeError, RuntimeError):
        raise ValueError(f"device: was {device!r}; allowed: cpu or cuda") from None
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device: was {place}; allowed: cpu or cuda")
    return _Described("input", shape, dtype, place)


def _shape_of_slots(inv_permuted_idx: Any) -> tuple[int, ...]:
    if isinstance(inv_permuted_idx, Tensor):
        expect_dense_tensors(inv_permuted_idx=inv_permuted_idx)
        return tuple(inv_permuted_idx.shape)
    shape = _shape("inv_permuted_idx", inv_permuted_idx, "(tokens, topk)")
    if len(shape) != 2 or min(shape) < 0:
        raise ValueError(f"inv_permuted_idx: was of shape {list(shape)}; allowed: shape [tokens, topk]")
    return shape


def _shape(name: str, value: Any, dimensions: str) -> tuple[int, ...]:
    try:
        return tuple(operator.index(size) for size in value)
    except TypeError:
        was = value if isinstance(value, (tuple, list)) else f"of type {type(value).__name__}"
        raise TypeError(f"{name}: was {was}; allowed: a torch.Tensor, or its shape {dimensions}") from None


class _Described:
    """A contiguous tensor that need not exist."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        if any(size < 0 for size in shape):
            raise ValueError(f"{name}: was of shape {list(shape)}; allowed: sizes of 0 and above")
        if math.prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
            raise ValueError(f"{name}: was of shape {list(shape)}; allowed: at most {MOST_ELEMENTS} elements")
        self.shape, self.dtype, self.device = shape, dtype, device

    def stride(self) -> tuple[int, ...]:
        strides = [1]
        for size in reversed(self.shape[1:]):
            strides.append(strides[-1] * max(size, 1))
        return tuple(reversed(strides))
