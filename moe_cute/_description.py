"""Calls as the checks in C++ see them: by shape, strides, dtype, device and address of tensors that need not exist."""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from moe_cute._checks import name_of
from moe_cute._extension import _C

Description = tuple[tuple[int, ...], tuple[int, ...], str, str, int, int]


def description(tensor: Any, place: int) -> Description | None:
    """Of a tensor, or of what has a tensor's attributes; `place` is its own in the argument list."""
    if tensor is None:
        return None
    has_memory = isinstance(tensor, Tensor) and not tensor.is_meta and not isinstance(tensor, FakeTensor)
    # Beyond every address of a process, and far apart: what is only described overlaps with nothing.
    address = (has_memory and tensor.data_ptr()) or (place + 1) << 59
    device = tensor.device
    return tuple(tensor.shape), tuple(tensor.stride()), name_of(tensor.dtype), device.type, device.index or 0, address


def check_described(input: Tensor, output: Tensor, scale: Any, *others: Tensor | None) -> None:
    """Raises what a call would raise, of tensors that are fake or on the meta device. A size that is a symbol counts as
    the number it stands for now."""
    tensors: tuple[Any, ...] = (input, output, *others)
    if input.device.type not in ("cpu", "cuda"):
        tensors = tuple(None if tensor is None else _Placed(tensor) for tensor in tensors)
    described = [_without_symbols(description(tensor, place)) for place, tensor in enumerate(tensors)]
    if None not in [each for each, tensor in zip(described, tensors, strict=True) if tensor is not None]:
        _C.check(*described, scale if isinstance(scale, (int, float)) else 1.0)


class _Placed:
    """A meta tensor, as if it were on the CPU."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.stride, self.dtype = tensor.shape, tensor.stride, tensor.dtype
        self.device = torch.device("cpu")


def _without_symbols(described: Description | None) -> Description | None:
    """None where a symbol stands for no number yet."""
    if described is None:
        return None
    sizes, strides, *rest = described
    numbers = [size if isinstance(size, int) else size.node.hint for size in (*sizes, *strides)]
    if not all(isinstance(number, int) for number in numbers):
        return None
    return (tuple(numbers[: len(sizes)]), tuple(numbers[len(sizes) :]), *rest)  # type: ignore[return-value]
