"""A Triton sum_reduce of this project's own: what a Python-only kernel can make of small sizes. No engine runs it.

Where the architecture can, it launches programmatically: the trigger comes first, the wait before the first read. The
engines' own Triton kernel (triton_peers.py) triggers after its wait, and so overlaps less.
"""

# A Triton kernel's parameters have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.measure import measure_cold
from benchmarks.operands import Operands
from benchmarks.shapes import Case

#          block of hidden, warps
CONFIGS = (
    (256, 1),
    (512, 1),
    (512, 2),
    (512, 4),
    (1024, 2),
    (1024, 4),
    (2048, 4),
    (2048, 8),
    (4096, 16),
)
TUNING_REPLAYS = 3
NEGATE_BLOCK = 1024
ENGINE_CONFIG = (2048, 16)  # one launch for every shape, as sglang's own has it


# tokens is no argument, so that one compilation serves every token count.
@triton.jit
def _sum_reduce_kernel(
    input,
    output,
    scale,
    TOPK: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < HIDDEN
    row = input + token * TOPK * HIDDEN + column
    if PDL:
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((BLOCK,), dtype=ACCUMULATOR)
    for slot in tl.static_range(TOPK):
        total += tl.load(row + slot * HIDDEN, mask=inside, other=0.0).to(ACCUMULATOR)
    tl.store(output + token * HIDDEN + column, (total * scale).to(output.dtype.element_ty), mask=inside)


@triton.jit
def _negate_kernel(source, target, elements, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
    tl.store(target + at, -tl.load(source + at, mask=at < elements), mask=at < elements)


def negate(source: Tensor, target: Tensor) -> None:
    """`target = -source`, from a kernel that lets the next one start early: it triggers before it writes."""
    pdl = _has_pdl()
    grid = (triton.cdiv(source.numel(), NEGATE_BLOCK),)
    _negate_kernel[grid](source, target, source.numel(), BLOCK=NEGATE_BLOCK, PDL=pdl, num_warps=4, launch_pdl=pdl)


@functools.cache
def _has_pdl() -> bool:
    return torch.cuda.get_device_capability() >= (9, 0)


def sum_reduce(input: Tensor, output: Tensor, routed_scaling_factor: float, *, block: int, num_warps: int) -> None:
    """Sum a contiguous `input [tokens, topk, hidden]` over topk into `output [tokens, hidden]`, scaled."""
    tokens, topk, hidden = input.shape
    pdl = _has_pdl()
    accumulator = tl.float64 if input.dtype == torch.float64 else tl.float32
    _sum_reduce_kernel[(tokens, triton.cdiv(hidden, block))](
        input,
        output,
        routed_scaling_factor,
        TOPK=topk,
        HIDDEN=hidden,
        BLOCK=block,
        ACCUMULATOR=accumulator,
        PDL=pdl,
        num_warps=num_warps,
        launch_pdl=pdl,
    )


def as_engines_launch_it(case: Case) -> Callable[[Tensor, Tensor, float], None]:
    """`sum_reduce` with the configuration that an engine uses at every size."""
    block, num_warps = ENGINE_CONFIG
    return functools.partial(sum_reduce, block=block, num_warps=num_warps)


def tuned(case: Case, operands: Sequence[Operands], scale: float) -> Callable[[Tensor, Tensor, float], None]:
    """`sum_reduce` with the configuration that was fastest on these very operands."""
    candidates = {
        f"{block}x{num_warps}": functools.partial(sum_reduce, block=block, num_warps=num_warps)
        for block, num_warps in CONFIGS
        if block < 2 * case.hidden
    }
    calls = {name: _on_operands(function, scale) for name, function in candidates.items()}
    samples = measure_cold(calls, operands, case.bytes_moved, replays=TUNING_REPLAYS)
    fastest = min(samples, key=lambda name: samples[name].median_us)
    return candidates[fastest]


def _on_operands(function: Callable[[Tensor, Tensor, float], None], scale: float) -> Callable[[Operands], None]:
    return lambda operands: function(operands.input, operands.output, scale)
