"""From the times of all launches at some sizes to ladders: the launch for outputs of each size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.comparison import geometric_mean

COLD_WEIGHT = 2 / 3  # of a launch that may overlap: most of it is hidden behind a producer, and the rest is noisier
LEAST_US = 0.1  # what another kernel hides may come out as nothing, or less
WORTH_A_STEP = 1.01  # a launch that is faster by less at one point may well be slower beside it
UNEVEN = 0.05  # [128, 8, 4096] takes 3.1 us in 128 blocks on 132 multiprocessors, [64, 8, 7168] 3.3 in 112, not 2.7

SPEC = Path(__file__).resolve().parent.parent / "specs" / "sum_reduce.yaml"


@dataclass(frozen=True, order=True)
class Launch:
    vector_width: int
    threads: int
    prefetch_kib: int

    def __str__(self) -> str:
        prefetch = f" prefetch {self.prefetch_kib} KiB" if self.prefetch_kib else ""
        return f"{self.vector_width} x {self.threads}{prefetch}"


Times = dict[Launch, float]


@dataclass(frozen=True)
class Size:
    """What was measured of some kernels at one size, on one machine.

    `times` are microseconds, by what a launch was behind: `itself`, cold; `trigger` and `ordinary`, kernels that have
    just written the input. A GPU on which nothing overlaps has only `ordinary`.
    """

    architecture: int
    dtype: str
    epilogue: str
    topk: int | str
    l2_mib: int
    multiprocessors: int
    measured: dict[str, str]
    hidden: int
    tokens: int
    times: dict[str, Times]

    @property
    def kernels(self) -> tuple[object, ...]:
        return self.architecture, self.dtype, self.epilogue, self.topk, self.l2_mib, self.multiprocessors


def deciding(predecessor: str, times: dict[str, Times]) -> Times:
    """Those by which launches are chosen. Behind a kernel that triggers, a weighted geometric mean: what suits an input
    that has just been written does not suit a cold one, and a call cannot know."""
    found = {launch: max(us, LEAST_US) for launch, us in times[predecessor].items()}
    if predecessor == "ordinary":
        return found
    cold = times["itself"]
    return {launch: cold[launch] ** COLD_WEIGHT * us ** (1 - COLD_WEIGHT) for launch, us in found.items()}


def by_kernels(sizes: Iterable[Size]) -> list[list[Size]]:
    """The sizes of each kind of kernels on each kind of GPU; of one that was measured again, the last times."""
    found: dict[tuple[object, ...], dict[tuple[int, int], Size]] = {}
    for size in sizes:
        found.setdefault(size.kernels, {})[size.hidden, size.tokens] = size
    return [list(each.values()) for each in found.values()]


def fitted(sizes: Sequence[Size]) -> Iterator[dict[str, Any]]:
    """Ladders of the same kernels, as a tuning file has them: of launches that the spec still builds, none where it has
    none of them."""
    sizes = [_of_built(size) for size in sizes]
    last = sizes[-1]
    for behind in ("trigger", "ordinary"):
        if last.times.get(behind):
            times = [(each.hidden * each.tokens, _beside(deciding(behind, each.times), each)) for each in sizes]
            kind = {"behind": behind, "dtype": last.dtype, "epilogue": last.epilogue, "topk": last.topk}
            yield {**kind, "l2_mib": last.l2_mib, "measured": last.measured, "steps": list(_steps(times))}


def file_in(folder: Path, architecture: int) -> Path:
    """An architecture's tuning file."""
    return folder / f"sm{architecture}.yaml"


def of_file(path: Path) -> list[dict[str, Any]]:
    """The ladders of a tuning file, none where there is no such file. Raises generator.problems.BadFile."""
    from generator import tuning

    if not path.exists():
        return []
    return [each.model_dump() for each in tuning.load(path, *_built(SPEC)).ladders]


def put(path: Path, architecture: int, found: Sequence[dict[str, Any]]) -> None:
    """Puts ladders into a tuning file, in place of those for the same. Raises generator.problems.BadFile."""
    from generator import tuning

    by_kind = {tuple(each[key] for key in tuning.KIND): each for each in [*of_file(path), *found]}
    kinds = sorted(by_kind, key=lambda kind: [(isinstance(part, str), part) for part in kind])  # topk may be "any"
    file = {"edition": 1, "architecture": architecture, "ladders": [by_kind[kind] for kind in kinds]}
    tuning.write_tuning(path, tuning.TuningFile.model_validate(file))


@cache
def _built(spec_path: Path) -> tuple[Any, ...]:
    """A spec and its variants."""
    from generator import rules, spec

    built = spec.load(spec_path)
    return built, rules.variants(built)


def _of_built(size: Size) -> Size:
    """With the launches alone that the spec builds."""
    from generator import tuning

    widths, threads = tuning.launches_of(size.dtype, size.epilogue, size.topk, *_built(SPEC))
    times = {
        behind: {
            launch: us for launch, us in each.items() if launch.vector_width in widths and launch.threads in threads
        }
        for behind, each in size.times.items()
    }
    return replace(size, times=times)


def _steps(measured: Iterable[tuple[int, Times]]) -> Iterator[dict[str, object]]:
    """From the times at each number of outputs."""
    points: dict[int, list[Times]] = {}
    for outputs, times in sorted(measured, key=lambda point: point[0]):
        points.setdefault(outputs, []).append(times)
    chosen = _smooth([_mean(each) for each in points.values()])
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


def _mean(times: Sequence[Times]) -> Times:
    """Of launches that do the same here, the first prefetches more: at larger sizes it still does."""
    everywhere = set(times[0]).intersection(*times[1:])
    return {launch: geometric_mean([each[launch] for each in times]) for launch in sorted(everywhere, reverse=True)}


def _beside(times: Times, size: Size) -> Times:
    """An estimate of the times at sizes nearby, where blocks come out less even on the multiprocessors."""

    def unevenness(launch: Launch) -> float:
        blocks = size.tokens * size.hidden / (launch.vector_width * launch.threads)
        return size.multiprocessors / blocks if blocks > size.multiprocessors / 2 else 0.0

    return {launch: time * (1 + UNEVEN * unevenness(launch)) for launch, time in times.items()}
