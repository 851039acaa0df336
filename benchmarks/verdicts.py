"""The bounds that this project holds itself to, each with what was measured and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.comparison import BANDS, Comparison, geometric_mean, in_band
from benchmarks.fused import TRANSFORMERS, VLLM_MUL_SUM, VLLM_UNPERMUTE
from benchmarks.providers import COPY, OURS, SGL, TUNED
from benchmarks.rounding import rounded_down, rounded_up
from benchmarks.shapes import LIVE_TOKENS, Case

JUDGED_GRIDS = ("main", "outside", "layout", "fused", "host")
COLD_MEANS = (1.40, 1.06, 1.01)  # in the order of BANDS
COPY_BOUND_BYTES = 64e6
RIVALS: tuple[tuple[str, Callable[[Comparison], float | None]], ...] = (
    ("the best peer", lambda each: each.ratio),
    ("this project's own Triton kernel as well", lambda each: each.ratio_with_triton),
)
SMALL_BOUNDS = {  # time against the plain sum's, up to 64 tokens
    "weighted": 1.12,
    "weighted_shared": 1.12,
    "unpermute_weighted": 1.35,
    "unpermute_weighted_shared": 1.35,
}


@dataclass(frozen=True)
class Verdict:
    """One bound. `passed` is None where the run has no measurement for it."""

    bound: str
    measured: str
    passed: bool | None

    @property
    def word(self) -> str:
        return {True: "pass", False: "FAIL", None: "not measured"}[self.passed]


Point = tuple[float, str]  # a number and where it was measured


def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Hold a GPU run against every bound."""
    return [*_plain(comparisons), *_layouts(comparisons), *_fused(comparisons)]


def _plain(comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
    cold = _of(comparisons, "main", "cold")
    yield from _against_rivals("cold", cold, "any point", 0.98, _lowest)
    for (name, low, high), bound in zip(BANDS, COLD_MEANS, strict=True):
        yield from _against_rivals("cold", in_band(cold, low, high), f"{name}, geometric mean", bound, _mean)
    yield _at_least("cold, against Triton tuned at each point, any point", 0.98, _lowest(_ratios(cold, TUNED)))
    for measure, producer in (("chain", "an ordinary producer"), ("chain_pdl", "a producer that triggers")):
        chain = _of(comparisons, "main", measure)
        yield from _against_rivals(f"behind {producer}", chain, "any point", 0.98, _lowest)
        yield from _against_rivals(f"behind {producer}", chain, "geometric mean", 1.28, _mean)
    yield _at_least("cold, against sgl, geometric mean", 1.65, _mean(_ratios(cold, SGL)))
    yield from _against_rivals("outside the grid", _of(comparisons, "outside"), "any point", 0.95, _lowest)
    large = [each for each in cold if each.case.bytes_moved >= COPY_BOUND_BYTES]
    yield _at_least("from 64 MB on, against a copy of as many bytes, any point", 1.03, _lowest(_ratios(large, COPY)))
    host = [(1 / ratio if ratio else math.inf, case) for ratio, case in _ratios(_of(comparisons, "host", "host"), SGL)]
    yield _at_most("host time of a call, against sgl's wrapper", 1.00, _highest(host))


def _against_rivals(
    where: str,
    comparisons: Sequence[Comparison],
    what: str,
    bound: float,
    summarise: Callable[[Sequence[Point]], Point | None],
) -> Iterator[Verdict]:
    """One bound, held against what engines run, and again with this project's own Triton kernel among them."""
    for rivals, ratio in RIVALS:
        yield _at_least(f"{where}, against {rivals}, {what}", bound, summarise(_points(comparisons, ratio)))


def _layouts(comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
    for layout in ("offset", "padded_rows"):
        layouts = _of(comparisons, "layout")
        times = _relative_times([each for each in layouts if each.case.layout == layout], layouts, layout="contiguous")
        yield _at_most(f"{layout} input, against its contiguous twin, any point", 1.60, _highest(times))


def _fused(comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
    fused = _of(comparisons, "fused")
    few, many = in_band(fused, 0, 64), in_band(fused, 1024, math.inf)
    for epilogue in ("weighted", "weighted_shared", "unpermute_weighted_shared"):
        rates = _relative_rates(_with(many, epilogue), fused)
        what = f"{epilogue}, 1024 tokens and more, bandwidth against the plain sum's, any point"
        yield _at_least(what, 0.95, _lowest(rates))
    for epilogue, bound in SMALL_BOUNDS.items():
        times = _relative_times(_with(few, epilogue), fused, epilogue="plain")
        yield _at_most(f"{epilogue}, up to 64 tokens, time against the plain sum's, any point", bound, _highest(times))
    mul_sum = _ratios(_with(fused, "weighted"), VLLM_MUL_SUM)
    yield _at_least(f"weighted, against {VLLM_MUL_SUM}, any point", 1.00, _lowest(mul_sum))
    unpermute = _with(fused, "unpermute_weighted")
    yield _at_least(
        f"unpermute_weighted, against {VLLM_UNPERMUTE}, any point", 1.00, _lowest(_ratios(unpermute, VLLM_UNPERMUTE))
    )
    passes = _ratios(_with(many, "unpermute_weighted"), TRANSFORMERS)
    yield _at_least(f"1024 tokens and more, against {TRANSFORMERS}' passes, any point", 10.0, _lowest(passes))
    skipped = _relative_times(_with(in_band(fused, 8192, 8192), "half_skipped"), fused, epilogue="unpermute_weighted")
    yield _at_most("half the slots skipped, 8192 tokens, time against none skipped, any point", 0.60, _highest(skipped))
    live = _relative_times(_with(fused, "live_64"), fused, epilogue="weighted", tokens=LIVE_TOKENS)
    yield _at_most("64 live tokens in a launch for 8192, time against 64 tokens, any point", 1.30, _highest(live))


def _of(comparisons: Iterable[Comparison], grid: str, measure: str = "cold") -> list[Comparison]:
    return [each for each in comparisons if (each.grid, each.measure) == (grid, measure)]


def _ratios(comparisons: Iterable[Comparison], provider: str) -> list[Point]:
    return _points(comparisons, lambda each: each.ratio_to(provider))


def _points(comparisons: Iterable[Comparison], ratio: Callable[[Comparison], float | None]) -> list[Point]:
    pairs = ((ratio(each), str(each.case)) for each in comparisons)
    return [(value, case) for value, case in pairs if value is not None]


def _with(comparisons: Iterable[Comparison], epilogue: str) -> list[Comparison]:
    return [each for each in comparisons if each.case.epilogue == epilogue]


def _relative_times(chosen: Iterable[Comparison], among: Sequence[Comparison], **twin: str | int) -> list[Point]:
    """moe_cute's time at each chosen case over its time at the twin, which is the case with some fields changed."""
    points = []
    for each in chosen:
        twin_us = next((other.time(OURS) for other in among if other.case == _changed(each.case, twin)), None)
        if twin_us is not None:
            time = each.time(OURS)
            points.append((time / twin_us if time is not None else math.inf, str(each.case)))
    return points


def _relative_rates(chosen: Iterable[Comparison], among: Sequence[Comparison]) -> list[Point]:
    """moe_cute's bandwidth at each chosen case over its bandwidth at the plain sum."""
    points = []
    for each in chosen:
        plain = next(
            (other.gbps(OURS) for other in among if other.case == _changed(each.case, {"epilogue": "plain"})), None
        )
        if plain is not None:
            points.append(((each.gbps(OURS) or 0.0) / plain, str(each.case)))
    return points


def _changed(case: Case, changes: Mapping[str, str | int]) -> Case:
    return replace(case, **changes)  # type: ignore[arg-type]


def _lowest(points: Sequence[Point]) -> Point | None:
    return min(points, default=None)


def _highest(points: Sequence[Point]) -> Point | None:
    return max(points, default=None)


def _mean(points: Sequence[Point]) -> Point | None:
    return (geometric_mean([value for value, _ in points]), f"{len(points)} points") if points else None


def _at_least(what: str, bound: float, point: Point | None) -> Verdict:
    return _verdict(f"{what}: at least {bound:.2f}", point, lambda value: value >= bound, rounded_down)


def _at_most(what: str, bound: float, point: Point | None) -> Verdict:
    return _verdict(f"{what}: at most {bound:.2f}", point, lambda value: value <= bound, rounded_up)


def _verdict(
    bound: str, point: Point | None, holds: Callable[[float], bool], rounded: Callable[[float, int], str]
) -> Verdict:
    if point is None:
        return Verdict(bound, "", None)
    value, where = point
    return Verdict(bound, f"{rounded(value, 3)} ({where})", holds(value))
