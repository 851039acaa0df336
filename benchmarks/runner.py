"""One run: every case of the chosen grids, every provider, every measure, row by row into a results file."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import shapes
from benchmarks.correctness import find_error
from benchmarks.fused import FUSED
from benchmarks.measure import REPLAYS, Sample, capture, measure_chain, measure_cold, measure_cpu, measure_host
from benchmarks.operands import Operands, make_operands, rotating_operands
from benchmarks.producers import PRODUCERS
from benchmarks.providers import COPY, PLAIN, Call, PlainProvider, Provider
from benchmarks.records import Record, Writer
from benchmarks.shapes import Case

MEASURES = ("cold", "chain", "chain_pdl", "host")
CHAINS = {"chain": "ordinary", "chain_pdl": "trigger"}  # by measure: the producer
SCALE = 2.5  # DeepSeek-V3's routed_scaling_factor
QUICK_REPLAYS = 5
NO_SCALE_NOTE = "timed without routed_scaling_factor"


class DeviceLost(RuntimeError):
    """A provider left the GPU in a state that ends the process; what was measured before it stands in the file."""


class Runner:
    """Measures on one device, with the providers whose names are given (all by default)."""

    def __init__(self, device: torch.device, writer: Writer, names: Sequence[str] = (), quick: bool = False) -> None:
        self._device = device
        self._writer = writer
        self._replays = QUICK_REPLAYS if quick else REPLAYS
        self._names = names
        self._unavailable: dict[str, str | None] = {}

    def run_grid(self, grid: str, cases: Sequence[Case], measures: Sequence[str], console: Console) -> None:
        """Run the cold and chain measures over `cases`; the chain measures belong to the main grid alone."""
        measures = [measure for measure in measures if measure == "cold" or (measure in CHAINS and grid == "main")]
        if not measures:
            return
        for case in _with_progress(grid, cases, console):
            self._run_case(grid, case, measures)

    def run_host(self) -> None:
        """Run the host measure, at its one case."""
        case = shapes.HOST_CASE
        operands = make_operands(case, self._device, count=2)
        providers = {provider.name: provider for provider in self._chosen(PLAIN) if isinstance(provider, PlainProvider)}
        usable, records = self._prepare("host", case, ["host"], tuple(providers.values()), operands)
        calls = {}
        for name in usable:
            function = providers[name].function(case, operands, SCALE)
            calls[name] = functools.partial(function, operands[0].input, operands[0].output, SCALE)
        samples = measure_host(calls, self._replays)
        records += [_timed(_record("host", "host", name, case), sample, None) for name, sample in samples.items()]
        self._writer.write(records)

    def _run_case(self, grid: str, case: Case, measures: Sequence[str]) -> None:
        operands = rotating_operands(case, self._device)
        providers = self._chosen(FUSED if grid == "fused" or case.weighted else PLAIN)
        calls, records = self._prepare(grid, case, measures, providers, operands)
        for measure in measures:
            for name, sample in self._measure(measure, case, calls, operands).items():
                records.append(_timed(_record(grid, measure, name, case), sample, case.bytes_moved))
        self._writer.write(_against_copy(records))

    def _measure(
        self, measure: str, case: Case, calls: Mapping[str, Call], operands: Sequence[Operands]
    ) -> dict[str, Sample]:
        if self._device.type == "cpu":
            return measure_cpu(calls, operands, self._replays)
        if measure == "cold":
            return measure_cold(calls, operands, case.bytes_moved, self._replays)
        behind_producer = {name: call for name, call in calls.items() if name != COPY}
        producer = PRODUCERS[CHAINS[measure]]
        return measure_chain(behind_producer, operands, producer, case.bytes_moved, self._replays)

    def _prepare(
        self,
        grid: str,
        case: Case,
        measures: Sequence[str],
        providers: Sequence[Provider],
        operands: Sequence[Operands],
    ) -> tuple[dict[str, Call], list[Record]]:
        """The calls that are right at `case`, and a row with its reason for each provider that is not."""
        calls, refused = {}, []
        for provider in providers:
            reason = self._reason_against(provider) or provider.supports(case)
            if reason is None:
                call, reason = self._checked(provider, case, operands)
            if reason is None:
                calls[provider.name] = call
            else:
                refused += [replace(_record(grid, measure, provider.name, case), error=reason) for measure in measures]
        return calls, refused

    def _checked(self, provider: Provider, case: Case, operands: Sequence[Operands]) -> tuple[Call, str | None]:
        scale = SCALE if provider.scales else 1.0
        try:
            call = provider.prepare(case, operands, scale)
            reason = None if provider.name == COPY else find_error(call, case, operands[-1], scale)
            if reason is None and self._device.type == "cuda":
                capture(call, operands[-1:])
        except Exception as error:  # a peer may raise anything; whatever it is goes into the report
            self._require_living_device(provider, case, error)
            return _refused, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return call, reason

    def _require_living_device(self, provider: Provider, case: Case, cause: Exception) -> None:
        if self._device.type != "cuda":
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise DeviceLost(f"{provider.name} at {case}: {cause}") from cause

    def _chosen(self, providers: Sequence[Provider]) -> list[Provider]:
        return [provider for provider in providers if not self._names or provider.name in self._names]

    def _reason_against(self, provider: Provider) -> str | None:
        if provider.name not in self._unavailable:
            self._unavailable[provider.name] = provider.available(self._device)
        return self._unavailable[provider.name]


def _refused(operands: Operands) -> None:
    raise AssertionError("a refused provider is not called")


def _record(grid: str, measure: str, provider: str, case: Case) -> Record:
    return Record(grid, measure, provider, case.dtype, case.topk, case.hidden, case.tokens, case.layout, case.epilogue)


def _timed(record: Record, sample: Sample, bytes_moved: int | None) -> Record:
    unscaled = {provider.name for provider in (*PLAIN, *FUSED) if not provider.scales}
    return replace(
        record,
        median_us=sample.median_us,
        p20_us=sample.p20_us,
        p80_us=sample.p80_us,
        gbps=bytes_moved / sample.median_us / 1e3 if bytes_moved else None,
        note=NO_SCALE_NOTE if record.provider in unscaled - {COPY} else "",
    )


def _against_copy(records: Sequence[Record]) -> list[Record]:
    """The rows of one case, with percent_of_copy filled in from the copy's own among them."""
    rate = next((record.gbps for record in records if record.provider == COPY), None)
    return [
        replace(record, percent_of_copy=100 * record.gbps / rate)
        if rate and record.gbps and record.measure == "cold"
        else record
        for record in records
    ]


def _with_progress(grid: str, cases: Sequence[Case], console: Console) -> Iterator[Case]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(grid, total=len(cases))
        for case in cases:
            progress.update(task, description=f"{grid}: {case}")
            yield case
            progress.advance(task)
