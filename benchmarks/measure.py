"""The measures: device time of cold calls, device time behind a producer, host time per call, and CPU time.

All of them interleave what they compare: one sample of each in turn, then the next round, starting one further on. So a
drift of the clock, or a neighbour's load, falls on everybody alike.
"""

from __future__ import annotations

import functools
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")
Name = TypeVar("Name", bound=Hashable)

REPLAYS = 11
MIN_REPLAY_US = 500.0  # a graph's own start costs a few microseconds: below one percent of this
FASTEST_CALL_US = 0.7  # an empty kernel in a graph on an H200
FASTEST_BYTES_PER_US = 4.8e6  # an H200's memory at its datasheet rate
CHAIN_BUFFERS = 96  # nothing is to be kept cold; of small calls, these and the launches themselves fit the L2 cache
HEAD_START_CYCLES = 4_000_000  # about 2 ms, in which the host queues a round ahead of the device
PAUSE_CYCLES = 10_000  # about 5 us, between two replays of one graph

HOST_CALLS = 2000
CPU_SAMPLE_S = 2e-3


@dataclass(frozen=True)
class Sample:
    """Microseconds per call: the median over the replays and the 20th and 80th percentile."""

    median_us: float
    p20_us: float
    p80_us: float

    @classmethod
    def of(cls, times_us: Sequence[float]) -> Sample:
        fifths = statistics.quantiles(times_us, n=5, method="inclusive")
        return cls(statistics.median(times_us), fifths[0], fifths[-1])


def measure_cold(
    calls: Mapping[Name, Callable[[T], object]],
    buffers: Sequence[T],
    bytes_per_call: int,
    replays: int = REPLAYS,
    min_replay_us: float = MIN_REPLAY_US,
) -> dict[Name, Sample]:
    """Device time per call, from CUDA graphs that run each call over all `buffers` in turn.

    Args:
        calls: name to callable; it is given one of `buffers`, runs on the current stream and must be capturable.
        buffers: operand sets that together exceed the L2 cache (`operands.rotating_operands` makes them).
        bytes_per_call: bytes that one call moves; decides how many calls make a replay long enough to time.
        replays: samples per callable, at least two.
        min_replay_us: how long each takes at least; shorter ones are less exact and quicker to prepare.
    """
    loops = _loops(len(buffers), bytes_per_call, min_replay_us)
    graphs = {name: capture(call, list(buffers) * loops) for name, call in calls.items()}
    times = _time_graphs(graphs, replays)
    steps = loops * len(buffers)
    return {name: Sample.of([total / steps for total in totals]) for name, totals in times.items()}


def measure_chain(
    calls: Mapping[Name, Callable[[T], object]],
    buffers: Sequence[T],
    produce: Callable[[T, T], object],
    bytes_per_call: int,
    replays: int = REPLAYS,
    min_replay_us: float = MIN_REPLAY_US,
) -> dict[Name, Sample]:
    """Device time per call behind a producer that has just written its input, the producer's own time taken off.

    `produce(source, target)` rewrites the input of `target` out of that of `source`, with an ordinary kernel that knows
    nothing of programmatic dependent launch. The difference is taken within each round, so it may come out below the
    call's own time where the call overlaps with the producer's tail.
    """
    producer_alone = "producer alone"
    buffers = buffers[:CHAIN_BUFFERS]
    loops = _loops(len(buffers), bytes_per_call, min_replay_us)
    pairs = list(zip(buffers, [*buffers[1:], buffers[0]], strict=True)) * loops

    def step(call: Callable[[T], object]) -> Callable[[tuple[T, T]], None]:
        def run(pair: tuple[T, T]) -> None:
            target, source = pair
            produce(source, target)
            call(target)

        return run

    graphs: dict[Name | str, torch.cuda.CUDAGraph] = {name: capture(step(call), pairs) for name, call in calls.items()}
    graphs[producer_alone] = capture(step(lambda _: None), pairs)
    times = _time_graphs(graphs, replays)
    alone = times.pop(producer_alone)
    return {
        name: Sample.of([(total - base) / len(pairs) for total, base in zip(times[name], alone, strict=True)])
        for name in calls
    }


def measure_host(calls: Mapping[str, Callable[[], object]], repeats: int = REPLAYS) -> dict[str, Sample]:
    """Host time per eager call: many calls in a row, the device synchronised only before and after them."""

    def one(call: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in itertools.repeat(None, HOST_CALLS):
            call()
        elapsed = time.perf_counter() - started
        torch.cuda.synchronize()
        return elapsed * 1e6 / HOST_CALLS

    gc.collect()
    gc.disable()
    try:
        for call in calls.values():
            one(call)
        times = _interleave(calls, one, repeats)
    finally:
        gc.enable()
    return {name: Sample.of(samples) for name, samples in times.items()}


def measure_cpu(
    calls: Mapping[Name, Callable[[T], object]], buffers: Sequence[T], replays: int = REPLAYS
) -> dict[Name, Sample]:
    """CPU time per call over rotating `buffers`, with the threads that torch is set to."""
    rotation = itertools.cycle(buffers)

    def timed(call: Callable[[T], object], count: int) -> float:
        operands = list(itertools.islice(rotation, count))
        started = time.perf_counter()
        for each in operands:
            call(each)
        return time.perf_counter() - started

    counts = {}
    for call in calls.values():
        timed(call, 2)
        counts[call] = max(1, math.ceil(CPU_SAMPLE_S / timed(call, 1)))
    times = _interleave(calls, lambda call: timed(call, counts[call]) * 1e6 / counts[call], replays)
    return {name: Sample.of(samples) for name, samples in times.items()}


def capture(call: Callable[[T], object], operands: Sequence[T]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of `call` over `operands`, after one run outside it, where compiling and loading may happen."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(operands[0])
        stream.synchronize()
        # torch.cuda.graph() would empty the allocator's cache each time, and there are hundreds of captures.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            for each in operands:
                call(each)
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


def _time_graphs(graphs: Mapping[Name, torch.cuda.CUDAGraph], replays: int) -> dict[Name, list[float]]:
    """Microseconds of each replay."""
    for graph in graphs.values():
        graph.replay()
    torch.cuda.synchronize()

    def one(graph: torch.cuda.CUDAGraph) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        # Once before, untimed: a graph's own launches take 2 KB a node, which are in the L2 cache or not by how many
        # graphs take turns. Behind an ordinary producer [4, 2, 4096] took 2.45 us beside five, and 2.97 beside sixteen.
        graph.replay()
        # Straight behind itself a graph's kernels do not overlap: [1024, 8, 2048] 10.4 us in place of 9.2.
        torch.cuda._sleep(PAUSE_CYCLES)  # type: ignore[no-untyped-call]
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        return start, end

    # Queued behind a sleeping kernel, a replay's start event and its first kernel run back to back, without the host.
    head_start = functools.partial(torch.cuda._sleep, HEAD_START_CYCLES)
    events = _interleave(graphs, one, replays, before_round=head_start)
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) * 1e3 for start, end in pairs] for name, pairs in events.items()}


V = TypeVar("V")
R = TypeVar("R")


def _interleave(
    subjects: Mapping[Name, V], sample: Callable[[V], R], rounds: int, before_round: Callable[[], object] = lambda: None
) -> dict[Name, list[R]]:
    results: dict[Name, list[R]] = {name: [] for name in subjects}
    for names in _rotations(list(subjects), rounds):
        before_round()
        for name in names:
            results[name].append(sample(subjects[name]))
    return results


def _rotations(names: list[Name], rounds: int) -> Iterator[list[Name]]:
    for index in range(rounds):
        first = index % len(names) if names else 0
        yield names[first:] + names[:first]


def _loops(buffers: int, bytes_per_call: int, min_replay_us: float) -> int:
    fastest_pass_us = buffers * max(FASTEST_CALL_US, bytes_per_call / FASTEST_BYTES_PER_US)
    return math.ceil(min_replay_us / fastest_pass_us)
