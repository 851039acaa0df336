"""Operands for a case: rotating sets of buffers that together exceed the cache, so that each call starts cold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.shapes import Case

ALIGNMENT_BYTES = 256  # what the CUDA allocator promises: a set must not start worse aligned than an engine's tensor
PADDING_BYTES = 128  # between rows of the padded layout: keeps rows aligned
MEMORY_CAP_BYTES = 2 << 30
CPU_CACHE_BYTES = 32 << 20  # a last-level cache; three of them are rotated through


@dataclass(frozen=True)
class Operands:
    """What one call reads and writes; the optional ones are there where the case's epilogue wants them.

    `input` is [tokens, topk, hidden], or [tokens * topk, hidden] where rows are permuted. `sorted_weights` are flat, in
    the order of the permuted rows, for peers that weight before they unpermute.
    """

    input: Tensor
    output: Tensor
    topk_weights: Tensor | None = None
    inv_permuted_idx: Tensor | None = None
    sorted_weights: Tensor | None = None
    shared_output: Tensor | None = None
    num_tokens: Tensor | None = None


def rotating_operands(case: Case, device: torch.device, caches: int = 3) -> list[Operands]:
    """As many operand sets as make `caches` full, at least two; no more than the memory cap holds beyond that."""
    wanted = math.ceil(caches * _cache_bytes(device) / case.bytes_moved)
    affordable = MEMORY_CAP_BYTES // case.bytes_moved
    return make_operands(case, device, count=max(2, min(wanted, affordable)))


def make_operands(case: Case, device: torch.device, count: int) -> list[Operands]:
    """`count` sets filled with fresh random numbers; their outputs are NaN until something writes them."""
    inputs = _input_views(case, device, count)
    outputs = _row_views(case, device, count, fill=math.nan)
    sets = [Operands(input, output) for input, output in zip(inputs, outputs, strict=True)]
    if case.weighted:
        weights = torch.rand(count, case.tokens, case.topk, device=device)
        sets = [replace(each, topk_weights=weight) for each, weight in zip(sets, weights, strict=True)]
    if case.unpermuted:
        sets = [_permuted(each, case, weight) for each, weight in zip(sets, weights, strict=True)]
    if case.shared:
        shared = _row_views(case, device, count)
        sets = [replace(each, shared_output=rows) for each, rows in zip(sets, shared, strict=True)]
    if case.epilogue == "live_64":
        live = torch.tensor([case.live_tokens], dtype=torch.int32, device=device)
        sets = [replace(each, num_tokens=live) for each in sets]
    return sets


def _input_views(case: Case, device: torch.device, count: int) -> list[Tensor]:
    itemsize = case.torch_dtype.itemsize
    offset = 1 if case.layout == "offset" else 0
    row = case.hidden + (PADDING_BYTES // itemsize if case.layout == "padded_rows" else 0)
    # Rows past the live tokens are never touched, so the sets of a mostly dead launch may overlap there.
    step = _round_up(case.live_tokens * case.topk * row + offset, ALIGNMENT_BYTES // itemsize)
    elements = step * (count - 1) + case.tokens * case.topk * row + offset
    pool = torch.empty(elements, dtype=case.torch_dtype, device=device).normal_()
    size, stride = (case.tokens, case.topk, case.hidden), (case.topk * row, row, 1)
    views = [pool.as_strided(size, stride, index * step + offset) for index in range(count)]
    return [view.flatten(0, 1) for view in views] if case.unpermuted else views


def _row_views(case: Case, device: torch.device, count: int, fill: float | None = None) -> list[Tensor]:
    step = _round_up(case.live_tokens * case.hidden, ALIGNMENT_BYTES // case.torch_dtype.itemsize)
    pool = torch.empty(step * (count - 1) + case.tokens * case.hidden, dtype=case.torch_dtype, device=device)
    pool = pool.normal_() if fill is None else pool.fill_(fill)
    return [pool.as_strided((case.tokens, case.hidden), (case.hidden, 1), index * step) for index in range(count)]


def _permuted(operands: Operands, case: Case, weights: Tensor) -> Operands:
    permutation = torch.randperm(weights.numel(), device=weights.device)
    sorted_weights = torch.empty_like(weights).flatten().scatter_(0, permutation, weights.flatten())
    index = permutation.to(torch.int32).view(case.tokens, case.topk)
    if case.epilogue == "half_skipped":
        ranks = torch.rand(index.shape, device=index.device).argsort(dim=1)
        index = index.masked_fill(ranks < case.topk // 2, -1)
    return replace(operands, inv_permuted_idx=index, sorted_weights=sorted_weights)


def _cache_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else CPU_CACHE_BYTES


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
