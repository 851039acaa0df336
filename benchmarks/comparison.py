"""What the rows say when held against each other: best peer, ratios, geometric means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.providers import COPY, OURS, TRITON, TUNED
from benchmarks.records import Record
from benchmarks.shapes import Case

BANDS = (
    ("up to 64 tokens", 0, 64),
    ("65 to 1024 tokens", 65, 1024),
    ("above 1024 tokens", 1025, math.inf),
)
NO_PEERS = (OURS, TRITON, TUNED, COPY)  # no engine runs them


@dataclass(frozen=True)
class Comparison:
    """Everybody's rows at one point of one grid, under one measure."""

    grid: str
    measure: str
    case: Case
    rows: tuple[Record, ...]

    def time(self, provider: str) -> float | None:
        """Median microseconds, or None where the provider has no time here."""
        return next((row.median_us for row in self.rows if row.provider == provider), None)

    def gbps(self, provider: str) -> float | None:
        return next((row.gbps for row in self.rows if row.provider == provider), None)

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """Name and median microseconds of the fastest of what engines run."""
        peers = [(row.provider, row.median_us) for row in self.rows if row.provider not in NO_PEERS]
        timed = [(name, time) for name, time in peers if time is not None]
        return min(timed, key=lambda peer: peer[1]) if timed else None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the best peer."""
        return self._speedup(self.best_peer[1] if self.best_peer else None)

    @property
    def ratio_with_triton(self) -> float | None:
        """How many times as fast as the best peer or this project's own Triton kernel, whichever is the faster."""
        ratios = (self.ratio, self.ratio_to(TRITON))
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    def ratio_to(self, provider: str) -> float | None:
        """How many times as fast as `provider`."""
        return self._speedup(self.time(provider))

    def _speedup(self, peer_us: float | None) -> float | None:
        ours = self.time(OURS)
        if peer_us is None or not any(row.provider == OURS for row in self.rows):
            return None
        # A point that a peer can do and moe_cute cannot is lost, not left out.
        return peer_us / ours if ours is not None else 0.0


def compare(records: Iterable[Record]) -> list[Comparison]:
    """Group rows by grid, measure and case, in the order of the file."""
    groups: dict[tuple[str, str, Case], list[Record]] = {}
    for record in records:
        groups.setdefault((record.grid, record.measure, record.case), []).append(record)
    return [Comparison(*key, tuple(rows)) for key, rows in groups.items()]


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of non-negative values; one zero makes it zero.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("the geometric mean of no values is undefined")
    if min(values) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def in_band(comparisons: Iterable[Comparison], low: float, high: float) -> list[Comparison]:
    return [each for each in comparisons if low <= each.case.tokens <= high]
