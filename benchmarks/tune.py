"""`python -m benchmarks tune`: measures launches on this GPU, and writes the fastest into specs/tuning/."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from benchmarks import environment
from benchmarks.measure import FASTEST_BYTES_PER_US, measure_chain, measure_cold
from benchmarks.operands import Operands, rotating_operands
from benchmarks.producers import PRODUCERS
from benchmarks.shapes import Case

#          hidden, tokens
SHAPES = (
    *((4096, tokens) for tokens in (1, 4, 16, 24, 32, 64, 96, 128, 192, 256, 512, 1024, 8192)),
    *((2048, tokens) for tokens in (1, 16, 64, 256)),
    *((2880, tokens) for tokens in (64, 256, 512)),
    (5120, 64),
    *((7168, tokens) for tokens in (1, 16, 32, 64)),
)
VECTOR_BYTES = (16, 8, 4)
PREFETCH_KIB = (0, 12, 24, 40)
ROUNDS = (3, 9)  # replays of every launch, then of those that came near the fastest
REPLAY_US = 200.0
LEAST_US = 0.1  # what another kernel hides may come out as nothing, or less
NEAR = 1.06
COLD_WEIGHT = 2 / 3  # of a launch that may overlap: most of it is hidden behind a producer, and the rest is noisier
# Blocks that an H100 starts and ends, at most: [1024, 2, 4096] takes 20.6 us in 16384 blocks, and 8.5 in 4096.
BLOCKS_PER_US = 800
MEASURED_ANYWAY_US = 1.5  # whatever their blocks, calls as short as this
FUSED_THREADS = 256  # a fused kernel has too many registers for larger blocks
WORTH_A_STEP = 1.01  # a launch that is faster by less at one point may well be slower beside it
UNEVEN = 0.05  # [128, 8, 4096] takes 3.1 us in 128 blocks on 132 multiprocessors, [64, 8, 7168] 3.3 in 112, not 2.7

# A fused kernel is measured with shared_output, which not every call has: its ladder serves both.
EPILOGUE = {"plain": "plain", "weighted_shared": "weighted", "unpermute_weighted_shared": "permuted"}
SPEC = Path(__file__).resolve().parent.parent / "specs" / "sum_reduce.yaml"


@dataclass(frozen=True)
class Ladder:
    """What is measured: `topk` is that of the calls, `kernel` that of the kernels (0: those for any)."""

    dtype: str
    topk: int
    kernel: int
    epilogue: str = "plain"

    @property
    def key(self) -> tuple[str, str, int | str]:
        """Of its kernels: dtype, epilogue, topk."""
        return self.dtype, EPILOGUE[self.epilogue], self.kernel or "any"

    def __str__(self) -> str:
        return "/".join(map(str, self.key))


# Calls between them follow the nearest; 16-bit dtypes share theirs.
LADDERS = (
    *(Ladder("bfloat16", topk, topk) for topk in (8, 6, 4, 2, 10, 1)),
    Ladder("bfloat16", 8, 8, "weighted_shared"),
    Ladder("bfloat16", 8, 8, "unpermute_weighted_shared"),
    Ladder("bfloat16", 5, 0),
    Ladder("float32", 8, 8),
    Ladder("float32", 2, 2),
    Ladder("float32", 5, 0),
    Ladder("float64", 8, 8),
    Ladder("float64", 3, 0),
)


@dataclass(frozen=True, order=True)
class Launch:
    vector_width: int
    threads: int
    prefetch_kib: int

    def __str__(self) -> str:
        prefetch = f" prefetch {self.prefetch_kib} KiB" if self.prefetch_kib else ""
        return f"{self.vector_width} x {self.threads}{prefetch}"


Times = dict[Launch, float]
Calls = dict[Launch, Callable[[Operands], object]]


def tune(path: Path, device: torch.device, threads: Sequence[int], ladders: Sequence[Ladder] = LADDERS) -> None:
    """Measures ladders and puts each into `path` as it is done, in place of one that measures the same. About 50
    seconds each on an H200."""
    facts = environment.describe(device, None)
    major, minor = torch.cuda.get_device_capability(device)
    properties = torch.cuda.get_device_properties(device)
    multiprocessors, l2_mib = properties.multi_processor_count, properties.L2_cache_size >> 20
    machine = {
        "gpu": facts["device"],
        "date": facts["date"][:10],
        "driver": facts["driver"],
        "cuda": facts["cuda"],
        "torch": str(torch.__version__),
    }
    kinds = ("trigger", "ordinary") if major >= 9 else ("ordinary",)
    for ladder in track(ladders, description="ladders"):
        measured = {
            shape: _times(ladder, *shape, device, threads, multiprocessors, kinds) for shape in shapes_of(ladder)
        }
        dtype, epilogue, topk = ladder.key
        found: list[dict[str, object]] = []
        for behind in kinds:
            times = {shape: _beside(times[behind], *shape, multiprocessors) for shape, times in measured.items()}
            kind = {"behind": behind, "dtype": dtype, "epilogue": epilogue, "topk": topk, "l2_mib": l2_mib}
            found.append({**kind, "measured": machine, "steps": list(_steps(times))})
        _put(path, 10 * major + minor, found)


def shapes_of(ladder: Ladder) -> list[tuple[int, int]]:
    """Those of SHAPES with launches to measure: none where the spec no longer has the ladder's kernels."""
    return [
        (hidden, tokens)
        for hidden, tokens in SHAPES
        if _kernels(Case(ladder.dtype, ladder.topk, hidden, tokens, epilogue=ladder.epilogue), ladder)
    ]


def _put(path: Path, architecture: int, found: Sequence[dict[str, object]]) -> None:
    from generator import rules, spec, tuning

    ladders: list[dict[str, Any]] = []
    if path.exists():
        built = spec.load(SPEC)
        ladders = tuning.load(path, built, rules.variants(built)).model_dump()["ladders"]
    by_kind = {tuple(each[key] for key in tuning.KIND): each for each in [*ladders, *found]}
    kinds = sorted(by_kind, key=lambda kind: [(isinstance(part, str), part) for part in kind])  # topk may be "any"
    file = {"edition": 1, "architecture": architecture, "ladders": [by_kind[kind] for kind in kinds]}
    tuning.write_tuning(path, tuning.TuningFile.model_validate(file))


def _steps(measured: dict[tuple[int, int], Times]) -> Iterator[dict[str, object]]:
    points: dict[int, Times] = {}
    for (hidden, tokens), times in sorted(measured.items(), key=lambda item: math.prod(item[0])):
        points[tokens * hidden] = _mean(points.get(tokens * hidden, times), times)
    chosen = _smooth(list(points.values()))
    bounds = [math.isqrt(here * there) for here, there in pairwise(points)]
    for index, launch in enumerate(chosen):
        if index + 1 < len(chosen) and chosen[index + 1] == launch:
            continue  # the next step says the same
        yield {
            "outputs": bounds[index] if index < len(bounds) else "any",
            "vector_width": launch.vector_width,
            "threads": launch.threads,
            "prefetch_kib": launch.prefetch_kib,
        }


def _smooth(points: Sequence[Times]) -> list[Launch]:
    """One launch for each point: the fastest ladder, where each step costs as much as WORTH_A_STEP at one point."""
    paths: dict[Launch, tuple[float, list[Launch]]] = {launch: (0.0, []) for launch in points[0]}
    for times in points:
        cheapest, shortest = min(paths.values(), key=lambda path: path[0])
        stepped = (cheapest + math.log(WORTH_A_STEP), shortest)
        paths = {
            launch: (cost + math.log(time), [*path, launch])
            for launch, time in times.items()
            for cost, path in [min(paths.get(launch, stepped), stepped, key=lambda path: path[0])]
        }
    return min(paths.values(), key=lambda path: path[0])[1]


def _mean(some: Times, others: Times) -> Times:
    return {launch: math.sqrt(some[launch] * others[launch]) for launch in some.keys() & others.keys()}


def _beside(times: Times, hidden: int, tokens: int, multiprocessors: int) -> Times:
    """An estimate of the times at sizes nearby, where blocks come out less even on the multiprocessors."""

    def unevenness(launch: Launch) -> float:
        blocks = tokens * hidden / (launch.vector_width * launch.threads)
        return multiprocessors / blocks if blocks > multiprocessors / 2 else 0.0

    return {launch: time * (1 + UNEVEN * unevenness(launch)) for launch, time in times.items()}


def _times(
    ladder: Ladder,
    hidden: int,
    tokens: int,
    device: torch.device,
    threads: Sequence[int],
    multiprocessors: int,
    kinds: Sequence[str],
) -> dict[str, Times]:
    """Microseconds of each launch, by what it is behind: a kernel that triggers, on cold operands and on those that it
    has just written (their weighted geometric mean); an ordinary one, which has just written them.
    """
    case = Case(ladder.dtype, ladder.topk, hidden, tokens, epilogue=ladder.epilogue)
    operands = rotating_operands(case, device, caches=2)
    calls = dict(launches(case, ladder, threads, multiprocessors))

    def behind_trigger(calls: Calls, replays: int) -> Times:
        alone = measure_cold(calls, operands, case.bytes_moved, replays, REPLAY_US)
        behind = measure_chain(calls, operands, PRODUCERS["trigger"], case.bytes_moved, replays, REPLAY_US)
        return {
            each: alone[each].median_us ** COLD_WEIGHT * max(behind[each].median_us, LEAST_US) ** (1 - COLD_WEIGHT)
            for each in calls
        }

    def behind_ordinary(calls: Calls, replays: int) -> Times:
        behind = measure_chain(calls, operands, PRODUCERS["ordinary"], case.bytes_moved, replays, REPLAY_US)
        return {each: behind[each].median_us for each in calls}

    if "trigger" not in kinds:  # nor does anything overlap, for which a launch could prefetch
        plain = {each: call for each, call in calls.items() if not each.prefetch_kib}
        return {"ordinary": _narrowed(plain, behind_ordinary)}
    found = {"trigger": _narrowed(calls, behind_trigger), "ordinary": _narrowed(calls, behind_ordinary)}
    return {kind: _with_equals(times) for kind, times in found.items()}


def _with_equals(times: Times) -> Times:
    """Also of the launches that `launches` left out, since another does the same."""
    most = {
        replace(launch, prefetch_kib=kib): launch
        for launch in sorted(times)
        for kib in PREFETCH_KIB
        if launch.prefetch_kib <= kib
    }
    return {launch: times[equal] for launch, equal in most.items()}


def _narrowed(calls: Calls, measure: Callable[[Calls, int], Times]) -> Times:
    first, second = ROUNDS
    times = measure(calls, first)
    bound = NEAR * min(times.values())
    near = {launch: call for launch, call in calls.items() if times[launch] <= bound}
    return times | measure(near, second)


def _kernels(case: Case, ladder: Ladder) -> dict[int, str]:
    """By vector width: of two, the one for this hidden size alone, which is what such a call gets."""
    from moe_cute import variants

    kind = ("cuda", case.dtype, EPILOGUE[case.epilogue], ladder.kernel)
    fitting = [
        variant
        for variant in variants()
        if (variant["backend"], variant["dtype"], variant["epilogue"], variant["topk"]) == kind
        and variant["hidden"] in (0, case.hidden)
        and not variant["unaligned"]
    ]
    return {each["vector_width"]: each["name"] for each in sorted(fitting, key=lambda each: bool(each["hidden"]))}


def _amounts(case: Case, multiprocessors: int) -> Iterator[int]:
    """Of PREFETCH_KIB, those that are less than all, and the first that is not."""
    of_each = case.tokens * case.topk * case.hidden * case.torch_dtype.itemsize / 1024 / multiprocessors
    for kib in PREFETCH_KIB:
        yield kib
        if kib >= of_each:
            return


def launches(
    case: Case, ladder: Ladder, threads: Sequence[int], multiprocessors: int
) -> Iterator[tuple[Launch, Callable[[Operands], object]]]:
    """All that differ in what they do: once a launch prefetches all, more is the same."""
    from moe_cute._extension import _C

    built = _kernels(case, ladder)
    widths = [size // case.torch_dtype.itemsize for size in VECTOR_BYTES if size // case.torch_dtype.itemsize in built]
    blocks = [block for block in threads if case.epilogue == "plain" or block <= FUSED_THREADS]
    longest_us = max(MEASURED_ANYWAY_US, case.bytes_moved / FASTEST_BYTES_PER_US)
    for width, block, prefetch_kib in product(widths, blocks, _amounts(case, multiprocessors)):
        if case.tokens * case.hidden / (width * block) > longest_us * BLOCKS_PER_US:
            continue

        def call(each: Operands, name: str = built[width], block: int = block, kib: int = prefetch_kib) -> None:
            extras = (each.topk_weights, None, None, each.inv_permuted_idx, each.shared_output, each.num_tokens)
            _C.sum_reduce(each.input, each.output, 1.0, True, *extras, name, block, kib)

        yield Launch(width, block, prefetch_kib), call
