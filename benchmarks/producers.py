"""The kernels that write a call's input just before it, and what calls take behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.measure import Name, Sample, measure_chain, measure_cold
from benchmarks.operands import Operands


def produce(source: Operands, target: Operands) -> None:
    """Rewrites the input of `target` with an ordinary kernel, which knows nothing of programmatic dependent launch."""
    # An elementwise kernel: copy_ would become a memory-copy node, which is no kernel to launch behind.
    torch.neg(source.input, out=target.input)


def produce_and_trigger(source: Operands, target: Operands) -> None:
    """Likewise, with a kernel that lets the next one start early."""
    from benchmarks import triton_kernel

    triton_kernel.negate(source.input, target.input)


PRODUCERS = {"ordinary": produce, "trigger": produce_and_trigger}  # by what a ladder's launches are `behind`


def measure_behind(
    predecessor: str,
    calls: Mapping[Name, Callable[[Operands], object]],
    operands: Sequence[Operands],
    bytes_per_call: int,
    replays: int,
    min_replay_us: float,
) -> dict[Name, Sample]:
    """Of calls behind one of PRODUCERS or, cold, behind `itself`."""
    if predecessor == "itself":
        return measure_cold(calls, operands, bytes_per_call, replays, min_replay_us)
    return measure_chain(calls, operands, PRODUCERS[predecessor], bytes_per_call, replays, min_replay_us)
