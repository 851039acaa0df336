"""Command line: `python -m benchmarks run`, `report`, `plot`, `tune`, `fit`, `regret`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import environment, ladders, plot, records, regret, report, runner, shapes, sizes, tune
from benchmarks.fused import FUSED
from benchmarks.providers import PLAIN
from benchmarks.records import RecordError, Results, Writer
from benchmarks.sizes import SizesError
from generator.problems import BadFile

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "generated" / "manifest.json"
TUNING = ROOT / "specs" / "tuning"
TIMES = ROOT / ".cache" / "tuning_times.jsonl"
RESULTS = Path(__file__).resolve().parent / "results"
COMMITTED_TIMES = RESULTS / "tuning_times.jsonl.xz"
GPU_GRIDS = ("main", "outside", "layout", "fused")
REPORT_WIDTH = 200  # a table of every provider, where the output is a file or a pipe and has no width of its own

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(width=None if Console().is_terminal else REPORT_WIDTH)


class Device(str, Enum):  # StrEnum needs Python 3.11
    cuda = "cuda"
    cpu = "cpu"


@app.command()
def run(
    grid: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(shapes.GRIDS)}. Default: by device.")] = "",
    measure: Annotated[
        str,
        typer.Option(help=f"Comma-separated, of {', '.join(runner.MEASURES)}; the CPU has only cold. Default: all."),
    ] = "",
    providers: Annotated[str, typer.Option(help="Comma-separated providers. Default: all.")] = "",
    device: Annotated[Device | None, typer.Option(help="Default: cuda where there is one.")] = None,
    quick: Annotated[bool, typer.Option(help="Three token counts of each shape, fewer repeats.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the CSV and the plots.")] = RESULTS,
    name: Annotated[str, typer.Option(help="Stem of the files. Default: the device's name.")] = "",
    revision: Annotated[str, typer.Option(help="The project's revision, where there is no repository to ask.")] = "",
) -> None:
    """Measure, write the CSV and its plots, and print the report."""
    chosen_device = torch.device(device.value if device else "cuda" if torch.cuda.is_available() else "cpu")
    if chosen_device.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("cuda: torch finds no CUDA device", param_hint="--device")
    on_gpu = chosen_device.type == "cuda"
    grids = _choose("--grid", grid or ",".join(GPU_GRIDS if on_gpu else ("cpu",)), list(shapes.GRIDS))
    measurable = list(runner.MEASURES) if on_gpu else ["cold"]
    measures = _choose("--measure", measure, measurable) or measurable
    names = _choose("--providers", providers, [provider.name for provider in (*PLAIN, *FUSED)])
    header = environment.describe(chosen_device, revision or None)
    device_name = header["device"].lower().replace(" ", "_")
    path = out / f"{name or device_name + '_quick' * quick}.csv"
    out.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        bench = runner.Runner(chosen_device, Writer(file, header), names, quick)
        lost = _measure(bench, grids, measures, quick)
    results = records.read(path)
    report.print_report(results, console)
    _plot(results, out, path.stem)
    console.print(f"results: {path}", highlight=False)
    if lost:
        typer.echo(f"error: stopped early, the device is lost: {lost}", err=True)
        raise typer.Exit(1)


@app.command("tune")
def tune_command(
    out: Annotated[Path, typer.Option(help="Folder of the tuning files.")] = TUNING,
    only: Annotated[
        str, typer.Option(help=f"Comma-separated ladders, of {', '.join(map(str, tune.LADDERS))}. Default: all.")
    ] = "",
    at: Annotated[
        str,
        typer.Option("--sizes", help="Comma-separated, as 4096x16 (hidden, tokens). Default: those of every ladder."),
    ] = "",
    times: Annotated[Path, typer.Option(help="Where all times are kept, beside those of benchmarks/results/.")] = TIMES,
) -> None:
    """Measure launches on this GPU and write the fastest down; `python -m generator` turns them into the table."""
    asked = _parse_sizes(at) or tune.SHAPES
    device = _measured_gpu()
    # Not those whose kernels have left the spec.
    built = {str(ladder): ladder for ladder in tune.LADDERS if tune.shapes_of(ladder)}
    names = _choose("--only", only or ",".join(built), list(built))
    known = _read_sizes([path for path in (COMMITTED_TIMES, times) if path.exists()])
    with _readable():
        wanting = tune.tune(out, times, known, device, _threads(), [built[name] for name in names], asked)
    for ladder in wanting:
        console.print(f"{ladder}: left as it is, not all its sizes were measured", highlight=False)
    console.print(f"{len(names) - len(wanting)} of {len(names)} ladders into {out}; now `make build`", highlight=False)


@app.command("fit")
def fit_command(
    times: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of times, also as .xz; of a size, the last count. Default: benchmarks/results/'s."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the tuning files.")] = TUNING,
) -> None:
    """Fit ladders again to the times that `tune` has kept; no GPU needed."""
    kinds = ladders.by_kernels(_read_sizes(times or [COMMITTED_TIMES]))
    with _readable():
        left = tune.fit(out, kinds)
    for kind in kinds:
        what = f"{'/'.join(map(str, kind[0].kernels[1:4]))}, L2 of {kind[0].l2_mib} MiB"
        path = ladders.file_in(out, kind[0].architecture)
        why_left = "the spec does not build it" if tune.is_complete(kind) else "not all sizes were measured"
        outcome = f"left as it is: {why_left}" if kind in left else f"into {path}"
        console.print(f"{what}: {outcome}", highlight=False)


@app.command("regret")
def regret_command(
    seconds: Annotated[float, typer.Option(min=0, help="How long to draw calls; about two a second.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the calls drawn.")] = 0,
    behind: Annotated[
        regret.Behind,
        typer.Option(help="Which kernel each call follows: itself, cold, or one that has written its input."),
    ] = regret.Behind.itself,
) -> None:
    """Compare the launches that random calls get on this GPU with the best of all."""
    console.print(regret.table_of(list(regret.regrets(seconds, seed, _measured_gpu(), _threads(), behind))))


@app.command("report")
def report_command(
    csv: Path,
    check: Annotated[bool, typer.Option(help="Exit with 1 unless every bound is measured and holds.")] = False,
) -> None:
    """Print the tables and verdicts of a results file."""
    verdicts = report.print_report(_read(csv), console)
    if check and not verdicts:
        typer.echo(f"error: {csv} has no grid that a bound is about", err=True)
    if check and not (verdicts and all(verdict.passed for verdict in verdicts)):
        raise typer.Exit(1)


@app.command("plot")
def plot_command(
    csv: Path, out: Annotated[Path | None, typer.Option(help="Default: the folder of the CSV.")] = None
) -> None:
    """Draw the plots of a results file."""
    _plot(_read(csv), out or csv.parent, csv.stem)


def _measured_gpu() -> torch.device:
    if not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA device, and a launch is only true where it was measured")
    return torch.device("cuda", torch.cuda.current_device())


def _parse_sizes(text: str) -> list[tuple[int, int]]:
    try:
        found = [tuple(map(int, part.split("x"))) for part in text.split(",") if text]
    except ValueError:
        found = [()]
    if any(len(size) != 2 or min(size) < 1 for size in found):
        raise typer.BadParameter(f"{text!r} is no list of HIDDENxTOKENS, as 4096x16,2880x64", param_hint="--sizes")
    return [(hidden, tokens) for hidden, tokens in found]


def _threads() -> list[int]:
    threads: list[int] = json.loads(MANIFEST.read_text(encoding="utf-8"))["threads"]
    return threads


def _measure(bench: runner.Runner, grids: list[str], measures: list[str], quick: bool) -> runner.DeviceLost | None:
    try:
        if "host" in measures:
            bench.run_host()
        for grid in grids:
            cases = shapes.GRIDS[grid]
            bench.run_grid(grid, shapes.quick(cases) if quick else cases, measures, console)
    except runner.DeviceLost as lost:
        return lost
    return None


def _plot(results: Results, folder: Path, stem: str) -> None:
    try:
        paths = plot.plot(results, folder, stem)
    except RecordError as error:
        console.print(str(error), highlight=False)
        return
    for path in paths:
        console.print(f"plot: {path}", highlight=False)


def _read(path: Path) -> Results:
    with _readable():
        return records.read(path)


def _read_sizes(paths: Sequence[Path]) -> list[ladders.Size]:
    with _readable():
        return [size for path in paths for size in sizes.read(path)]


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (BadFile, RecordError, SizesError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _choose(option: str, text: str, allowed: list[str]) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in chosen if part not in allowed]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(dict.fromkeys(allowed))}", param_hint=option)
    return chosen


if __name__ == "__main__":
    app()
