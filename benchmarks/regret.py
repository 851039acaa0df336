"""How far the launches that calls get are from the best ones, at random shapes, which neither a grid nor a ladder has.

Behind itself, a launch finds nothing in the cache; behind another kernel, which has just written the input, most of it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from rich.table import Table

from benchmarks.comparison import geometric_mean
from benchmarks.ladders import LEAST_US, Launch
from benchmarks.operands import Operands, rotating_operands
from benchmarks.producers import measure_behind
from benchmarks.providers import MoeCute
from benchmarks.rounding import rounded_up
from benchmarks.shapes import Case
from benchmarks.tune import EPILOGUE, Ladder, launches

DTYPES = ("bfloat16", "bfloat16", "float16", "float32")
TOPKS = (8, 8, 8, 8, 1, 2, 3, 4, 5, 6, 7, 9, 10, 12)
HIDDEN_SIZES = (1024, 1536, 2048, 2816, 2880, 3072, 4096, 5120, 6144, 7168)
MOST_TOKENS = 4096
MOST_BYTES = 600e6
REPLAYS = 5
REPLAY_US = 300.0
WORST_SHOWN = 20


class Behind(str, Enum):
    """The kernel before each call."""

    itself = "itself"
    trigger = "trigger"
    ordinary = "ordinary"


@dataclass(frozen=True)
class Regret:
    """Microseconds of the launch that a call gets, and of the best one."""

    case: Case
    chosen: Launch
    chosen_us: float
    best: Launch
    best_us: float

    @property
    def ratio(self) -> float:
        return max(self.chosen_us, LEAST_US) / max(self.best_us, LEAST_US)


def draw(rng: random.Random) -> Case:
    """A call whose tokens are as likely between 1 and 2 as between 1024 and 2048."""
    while True:
        tokens = int(math.exp(rng.uniform(0, math.log(MOST_TOKENS))))
        dtype, topk, hidden = rng.choice(DTYPES), rng.choice(TOPKS), rng.choice(HIDDEN_SIZES)
        case = Case(dtype, topk, hidden, tokens, epilogue=rng.choice(tuple(EPILOGUE)))
        if case.bytes_moved <= MOST_BYTES:
            return case


def regrets(
    seconds: float, seed: int, device: torch.device, threads: Sequence[int], behind: Behind = Behind.itself
) -> Iterator[Regret]:
    """As many as `seconds` allow, at least one."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    while True:
        yield regret_of(draw(rng), device, threads, behind)
        if time.monotonic() >= end:
            return


def regret_of(case: Case, device: torch.device, threads: Sequence[int], behind: Behind = Behind.itself) -> Regret:
    """Of one call, among the launches that a ladder could name."""
    from moe_cute import variants

    operands = rotating_operands(case, device)
    kernel = case.topk if any(row["topk"] == case.topk for row in variants() if row["backend"] == "cuda") else 0
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    calls = dict(launches(case, Ladder(case.dtype, case.topk, kernel, case.epilogue), threads, multiprocessors))
    chosen = chosen_launch(operands[0], behind)
    calls.setdefault(chosen, MoeCute().prepare(case, operands, 1.0))
    samples = measure_behind(behind.value, calls, operands, case.bytes_moved, REPLAYS, REPLAY_US)
    best = min(samples, key=lambda launch: samples[launch].median_us)
    return Regret(case, chosen, samples[chosen].median_us, best, samples[best].median_us)


def chosen_launch(operands: Operands, behind: Behind) -> Launch:
    """What such a call gets."""
    from moe_cute import explain, variants

    found = explain(
        operands.input,
        operands.output,
        topk_weights=operands.topk_weights,
        inv_permuted_idx=operands.inv_permuted_idx,
        shared_output=operands.shared_output,
        behind="ordinary" if behind is Behind.ordinary else "trigger",  # as this project's own kernels do
    )
    (width,) = (row["vector_width"] for row in variants() if row["name"] == found.variant)
    return Launch(width, found.threads or 0, found.prefetch_kib)


def table_of(found: Sequence[Regret]) -> Table:
    """The worst, under a title that sums up all."""
    mean = geometric_mean([each.ratio for each in found])
    beyond = sum(each.ratio > 1.1 for each in found)
    in_the_mean = f"{rounded_up(mean, 3)} times the best launch in the geometric mean"
    title = f"{len(found)} calls: {in_the_mean}, {beyond} of them beyond 1.1 times"
    table = Table("call", "launch", "us", "best", "us", "times", title=title)
    for each in sorted(found, key=lambda each: each.ratio, reverse=True)[:WORST_SHOWN]:
        times = f"{each.chosen_us:.2f}", f"{each.best_us:.2f}"
        table.add_row(str(each.case), str(each.chosen), times[0], str(each.best), times[1], rounded_up(each.ratio, 2))
    return table
