"""Plots from a results file: time and bandwidth against tokens, one panel for each (dtype, topk, hidden)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.providers import COPY, OURS
from benchmarks.records import Record, RecordError, Results

GRIDS = ("main", "cpu")  # the grids that run over token counts
COLUMNS = 4
# Okabe and Ito's palette, which stays apart for colour-blind readers.
COLOURS = {
    OURS: "#d55e00",
    "sgl": "#0072b2",
    "sglang_triton": "#e69f00",
    "vllm": "#009e73",
    "triton": "#cc79a7",
    "triton_tuned": "#f0e442",
    "compile": "#56b4e9",
    "torch": "#999999",
    COPY: "#000000",
}
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
STYLE: dict[Any, Any] = {"svg.hashsalt": "benchmarks", "font.size": 9}  # the salt keeps element ids from changing

Shape = tuple[str, int, int]


def plot(results: Results, folder: Path, stem: str) -> list[Path]:
    """Write `<stem>_<measure>_time` and `<stem>_cold_bandwidth`, each as PNG and SVG; return the paths.

    Raises:
        RecordError: no row of the file can be plotted.
    """
    rows = [row for row in results.records if row.grid in GRIDS and row.median_us is not None]
    if not rows:
        raise RecordError(f"nothing to plot: no timed row of the grids {', '.join(GRIDS)}")
    where = f"{results.header.get('device', '')}, {results.header.get('date', '')}"
    paths = []
    with matplotlib.rc_context(STYLE):
        for measure in dict.fromkeys(row.measure for row in rows):
            chosen = [row for row in rows if row.measure == measure]
            paths += _figure(
                chosen, "median_us", "µs per call", f"{measure}, {where}", folder / f"{stem}_{measure}_time"
            )
            if measure == "cold":
                path = folder / f"{stem}_{measure}_bandwidth"
                paths += _figure(chosen, "gbps", "GB/s (needed bytes only)", f"{measure}, {where}", path)
    return paths


def _figure(rows: Sequence[Record], column: str, label: str, title: str, path: Path) -> list[Path]:
    shapes = list(dict.fromkeys((row.dtype, row.topk, row.hidden) for row in rows))
    columns = min(COLUMNS, len(shapes))
    lines = math.ceil(len(shapes) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * lines + 0.8), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=True).flat)
    for axis, shape in zip(panels, shapes, strict=False):
        _panel(axis, shape, rows, column)
    for axis in panels[len(shapes) :]:
        axis.remove()
    for index, axis in enumerate(panels[: len(shapes)]):
        if index % columns == 0:
            axis.set_ylabel(label)
        if index + columns >= len(shapes):
            axis.set_xlabel("tokens")
            axis.tick_params(labelbottom=True)
    lines_by_name = {line.get_label(): line for axis in panels[: len(shapes)] for line in axis.get_lines()}
    figure.suptitle(title)
    figure.legend(lines_by_name.values(), lines_by_name.keys(), loc="outside lower center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.{extension}") for extension in ("png", "svg")]
    for target in written:
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    return written


def _panel(axis: Axes, shape: Shape, rows: Sequence[Record], column: str) -> None:
    dtype, topk, hidden = shape
    here = [row for row in rows if (row.dtype, row.topk, row.hidden) == shape]
    for name in sorted({row.provider for row in here}, key=_drawing_order):
        points = sorted((row.tokens, getattr(row, column)) for row in here if row.provider == name)
        ours = name == OURS
        style: dict[str, Any] = {"linewidth": 2.2 if ours else 1.2, "marker": "o", "markersize": 4 if ours else 2.5}
        axis.plot(
            *zip(*points, strict=True), color=COLOURS.get(name), label=name, ls=":" if name == COPY else "-", **style
        )
    axis.set_title(f"{SHORT.get(dtype, dtype)}, topk {topk}, hidden {hidden}", fontsize=9)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted({row.tokens for row in rows}))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", rotation=45)
    if column == "median_us":
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
    else:
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def _drawing_order(name: str) -> tuple[bool, int]:
    # moe_cute last, on top of the others.
    return name == OURS, list(COLOURS).index(name) if name in COLOURS else len(COLOURS)
