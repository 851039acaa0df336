"""Tables and verdicts from a results file; needs no GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import BANDS, Comparison, compare, geometric_mean, in_band
from benchmarks.providers import OURS, SGL, TRITON
from benchmarks.records import Results
from benchmarks.rounding import rounded_down
from benchmarks.verdicts import JUDGED_GRIDS, Verdict, judge

COLOURS = {True: "green", False: "red", None: "yellow"}
RATIOS: dict[str, Callable[[Comparison], float | None]] = {  # by column; how many times as fast moe_cute is
    f"best peer / {OURS}": lambda each: each.ratio,
    f"{TRITON} / {OURS}": lambda each: each.ratio_to(TRITON),
    f"{SGL} / {OURS}": lambda each: each.ratio_to(SGL),
}


def print_report(results: Results, console: Console) -> list[Verdict]:
    """Print the header, a table for each grid and measure, why times are missing, and the verdicts of a GPU run."""
    for key, value in results.header.items():
        console.print(f"{key}: {value}", highlight=False, markup=False)
    comparisons = compare(results.records)
    for grid, measure in dict.fromkeys((each.grid, each.measure) for each in comparisons):
        chosen = [each for each in comparisons if (each.grid, each.measure) == (grid, measure)]
        console.print(_table(grid, measure, chosen))
    _print_missing(results, console)
    # A run on a CPU, or of the block of benchmarks/moe_block.py, has nothing to hold against these bounds.
    verdicts = judge(comparisons) if any(each.grid in JUDGED_GRIDS for each in comparisons) else []
    if verdicts:
        console.print(_verdict_table(verdicts))
    return verdicts


def _table(grid: str, measure: str, comparisons: Sequence[Comparison]) -> Table:
    providers = list(dict.fromkeys(row.provider for each in comparisons for row in each.rows))
    table = Table(title=f"{grid}, {measure}: median µs per call", title_justify="left")
    table.add_column("case", no_wrap=True)
    for name in (*providers, "best peer", *RATIOS, "% of copy"):
        table.add_column(name, justify="right", no_wrap=name not in RATIOS)
    for each in comparisons:
        best = each.best_peer
        percent = next((row.percent_of_copy for row in each.rows if row.provider == OURS), None)
        times = [_number(each.time(name)) for name in providers]
        ratios = [_ratio(ratio(each)) for ratio in RATIOS.values()]
        table.add_row(str(each.case), *times, best[0] if best else "", *ratios, _number(percent, 0))
    blanks = [""] * (len(providers) + 1)
    table.add_section()
    for name, low, high in (*BANDS, ("all", 0, float("inf"))):
        chosen = in_band(comparisons, low, high)
        means = [_mean([ratio(each) for each in chosen]) for ratio in RATIOS.values()]
        if any(means):
            table.add_row(f"geometric mean, {name}", *blanks, *means, "")
    lowest = [_lowest([ratio(each) for each in comparisons]) for ratio in RATIOS.values()]
    if any(lowest):
        table.add_row("lowest", *blanks, *lowest, "")
    return table


def _print_missing(results: Results, console: Console) -> None:
    reasons: dict[tuple[str, str], list[str]] = {}
    for record in results.records:
        if record.error:
            reasons.setdefault((record.provider, record.error), []).append(
                f"{record.grid} {record.measure} {record.case}"
            )
    for (provider, error), where in reasons.items():
        places = where[0] if len(where) == 1 else f"{where[0]} and {len(where) - 1} more"
        console.print(f"no time for {provider}: {error} ({places})", highlight=False, markup=False)
    for provider, note in dict.fromkeys((record.provider, record.note) for record in results.records if record.note):
        console.print(f"{provider}: {note}", highlight=False, markup=False)


def _verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table("bound", "measured", "", title="bounds", title_justify="left")
    for verdict in verdicts:
        colour = COLOURS[verdict.passed]
        table.add_row(verdict.bound, verdict.measured, f"[{colour}]{verdict.word}[/{colour}]")
    return table


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else rounded_down(value, 2)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _ratio(geometric_mean(known) if known else None)


def _lowest(values: Sequence[float | None]) -> str:
    return _ratio(min((value for value in values if value is not None), default=None))
