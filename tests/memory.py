"""Tensors placed in memory on purpose: views of every kind into buffers whose every other element is watched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.reference import bits_of

# A NaN that no arithmetic makes (hardware's has an empty payload), so that what was left unwritten shows even where NaN
# is right.
_POISON = {torch.float16: 0x7DAD, torch.bfloat16: 0x7FAD, torch.float32: 0x7FC0DEAD, torch.float64: 0x7FF8DEADDEADDEAD}

_MARGIN = 64  # elements before and after: more than the widest vector of any backend


@dataclass(frozen=True)
class Canvas:
    """A poisoned buffer and the view of it that a call may write."""

    buffer: Tensor
    view: Tensor

    def assert_untouched(self) -> None:
        assert bool((bits_of(self.buffer) == _POISON[self.buffer.dtype]).all()), "written in spite of the refusal"

    def assert_written_inside_only(self, rows: int | None = None) -> None:
        """Every element of the view's first `rows` rows (of all, for None) was written, and nothing else."""
        poisoned = bits_of(self.buffer) == _POISON[self.buffer.dtype]
        inside = torch.zeros_like(poisoned).as_strided(self.view.shape, self.view.stride(), self.view.storage_offset())
        inside[:rows] = True
        whole = inside.as_strided(self.buffer.shape, (1,), 0)
        assert not bool((poisoned & whole).any()), f"{int((poisoned & whole).sum())} elements were never written"
        assert not bool((~poisoned & ~whole).any()), f"{int((~poisoned & ~whole).sum())} elements outside were written"


def canvas(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    strides: Sequence[int] | None = None,
    offset: int = 0,
) -> Canvas:
    """`offset` in elements past an address that is a multiple of 64 bytes."""
    strides = tuple(strides) if strides is not None else _packed(shape)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if size > 1)
    buffer = torch.empty(2 * _MARGIN + offset + reach + 1, dtype=dtype, device=device)
    bits_of(buffer).fill_(_POISON[dtype])
    return Canvas(buffer, buffer.as_strided(tuple(shape), strides, _MARGIN + offset))


def placed(values: Tensor, device: torch.device | str, strides: Sequence[int] | None = None, offset: int = 0) -> Tensor:
    """A view of these strides that holds `values`, NaN all around. Along a stride of 0 the values must be equal."""
    if strides is None:
        strides = _packed(values.shape)
    view = canvas(values.shape, values.dtype, device, strides, offset).view
    distinct = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    view[distinct].copy_(values[distinct])
    return view


def _packed(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides))


Strides = Callable[..., tuple[int, ...]]

# (tokens, topk, hidden) -> strides, and the offset of the first element.
INPUT_LAYOUTS: dict[str, tuple[Strides, int]] = {
    "contiguous": (lambda t, k, h: (k * h, h, 1), 0),
    "offset_by_one": (lambda t, k, h: (k * h, h, 1), 1),  # aligned to one element
    "offset_by_16_bytes_of_half": (lambda t, k, h: (k * h, h, 1), 8),  # aligned to 16 bytes and no more
    "sliced_rows": (lambda t, k, h: (k * (h + 16), h + 16, 1), 0),  # input[..., :h]: still aligned
    "sliced_rows_odd": (lambda t, k, h: (k * (h + 3), h + 3, 1), 0),  # each row is aligned differently
    "sliced_topk": (lambda t, k, h: ((k + 2) * h, h, 1), 0),  # input[:, :k]: packed rows, tokens apart
    "padded_tokens_odd": (lambda t, k, h: (k * h + 5, h, 1), 0),
    "topk_before_tokens": (lambda t, k, h: (h, t * h, 1), 0),  # a transpose(0, 1)
    "hidden_before_topk": (lambda t, k, h: (k * h, 1, k), 0),  # a transpose(1, 2)
    "hidden_first": (lambda t, k, h: (k, 1, t * k), 0),
    "every_second_element": (lambda t, k, h: (2 * k * h, 2 * h, 2), 0),
    "odd_strides": (lambda t, k, h: (7 * k * h + 3, 7 * h + 1, 7), 3),
    "same_row_in_every_slot": (lambda t, k, h: (h, 0, 1), 0),  # an expand over topk: what autograd hands on
    "same_token_everywhere": (lambda t, k, h: (0, h, 1), 0),
    "same_element_everywhere": (lambda t, k, h: (k, 1, 0), 0),
    "one_element": (lambda t, k, h: (0, 0, 0), 0),
    "overlapping_windows": (lambda t, k, h: (1, 1, 1), 0),  # legal to read
}

# (tokens, hidden) -> strides, and the offset of the first element.
OUTPUT_LAYOUTS: dict[str, tuple[Strides, int]] = {
    "contiguous": (lambda t, h: (h, 1), 0),
    "offset_by_one": (lambda t, h: (h, 1), 1),
    "column_slice": (lambda t, h: (2 * h + 16, 1), 16),
    "column_slice_odd": (lambda t, h: (2 * h + 1, 1), 3),
    "transposed": (lambda t, h: (1, t), 0),
    "every_second_element": (lambda t, h: (2 * h, 2), 1),
}


def values_for(layout: str, values: Tensor) -> Tensor:
    """`values` made equal wherever this input layout has one place for several elements."""
    strides, _ = INPUT_LAYOUTS[layout]
    if layout == "overlapping_windows":
        flat = values.flatten()
        at = sum(
            torch.arange(size).view([-1 if d == dim else 1 for d in range(3)]) for dim, size in enumerate(values.shape)
        )
        return flat[at % flat.numel()]
    first = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides(*values.shape))
    return values[first].expand_as(values)


def placed_input(layout: str, values: Tensor, device: torch.device | str) -> Tensor:
    strides, offset = INPUT_LAYOUTS[layout]
    if layout == "overlapping_windows":
        # torch refuses to copy into a view that overlaps itself, so the buffer is filled and then viewed.
        line = torch.cat([values[:, 0, 0], values[-1, :, 0][1:], values[-1, -1][1:]])
        return placed(line, device).as_strided(values.shape, (1, 1, 1))
    return placed(values, device, strides(*values.shape), offset)


def poisoned_output(layout: str, tokens: int, hidden: int, dtype: torch.dtype, device: torch.device | str) -> Canvas:
    strides, offset = OUTPUT_LAYOUTS[layout]
    return canvas((tokens, hidden), dtype, device, strides(tokens, hidden), offset)
