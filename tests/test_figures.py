"""README.md against benchmarks/results/: a run that replaces another takes its figures along."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmarks import records, verdicts
from benchmarks.comparison import BANDS, Comparison, compare, geometric_mean, in_band
from benchmarks.records import Results
from benchmarks.rounding import rounded_down

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = README.split("<!-- measured:begin -->")[1].split("<!-- measured:end -->")[0]
COLUMNS = ("moe_cute", "sglang_triton", "sgl", "vllm", "compile", "torch")
TABLES = ("cold", "chain")  # in README's order
MEANS = {"cold": "cold", "behind an ordinary kernel": "chain", "behind a kernel that triggers early": "chain_pdl"}


@cache
def results(name: str) -> Results:
    return records.read(ROOT / "benchmarks" / "results" / f"{name}.csv")


def main_grid(measure: str) -> list[Comparison]:
    compared = compare(results("nvidia_h200").records)
    return [each for each in compared if (each.grid, each.measure) == ("main", measure)]


def rows_of_tables() -> Iterator[tuple[str, str, list[str]]]:
    """The measure, the shape and the cells of each row of README's tables of times."""
    for measure, table in zip(TABLES, MEASURED.split("| bfloat16 `[tokens, topk, hidden]` |")[1:], strict=False):
        for shape, cells in re.findall(r"^\| (\d+, \d+, \d+) \| ([\d. |]+) \|$", table.split("\n\n")[0], re.MULTILINE):
            yield measure, shape, cells.split(" | ")


def shown(us: float) -> str:
    return f"{us:.{2 if us < 9.995 else 1 if us < 99.95 else 0}f}"


@pytest.mark.parametrize(
    ("measure", "shape", "cells"), [pytest.param(*row, id=" ".join(row[:2])) for row in rows_of_tables()]
)
def test_times(measure: str, shape: str, cells: list[str]) -> None:
    tokens, topk, hidden = map(int, shape.split(", "))
    (found,) = [
        each
        for each in main_grid(measure)
        if (each.case.dtype, each.case.tokens, each.case.topk, each.case.hidden) == ("bfloat16", tokens, topk, hidden)
    ]
    times = [found.time(column) for column in COLUMNS]
    assert cells == [shown(us) if us is not None else "" for us in times]


def test_both_tables_are_there() -> None:
    assert {measure for measure, *_ in rows_of_tables()} == set(TABLES)


@pytest.mark.parametrize("what", MEANS)
def test_geometric_means(what: str) -> None:
    row = re.search(rf"^\| {what} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", MEASURED, re.MULTILINE)
    assert row is not None
    points = main_grid(MEANS[what])
    ratios = [[each.ratio for each in in_band(points, low, high) if each.ratio] for _, low, high in BANDS]
    few, some, many = map(geometric_mean, ratios)
    lowest = min(ratio for each in ratios for ratio in each)
    assert row.groups() == (
        rounded_down(few, 2),
        rounded_down(some, 2),
        rounded_down(many, 3),
        rounded_down(lowest, 3),
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nvidia_h200", r"The run, of (\w+), is held against (\d+)\s+bounds:\s+(\d+)\s+hold"),
        ("nvidia_h100", r"An H100's run of (\w+)\s+holds (\d+)"),
    ],
)
def test_bounds_that_hold(name: str, told: str) -> None:
    match = re.search(told, MEASURED)
    assert match is not None
    revision, *counts = match.groups()
    judged = [each for each in verdicts.judge(compare(results(name).records)) if each.passed is not None]
    held = sum(bool(each.passed) for each in judged)
    assert revision == results(name).header["revision"]
    assert list(map(int, counts)) == [len(judged), held][-len(counts) :]


@pytest.mark.parametrize("tokens", [1, 64, 1024, 8192])
def test_a_block_of_a_model(tokens: int) -> None:
    number = r"([\d.]+)"
    row = re.search(rf"^\| {tokens} \| " + r" \| ".join([number] * 6) + r" \|$", MEASURED, re.MULTILINE)
    assert row is not None
    newest, oldest = (
        {each.grid: each for each in compare(results(name).records) if each.case.tokens == tokens}
        for name in ("moe_block", "moe_block_transformers_5.17")
    )
    block, tail = newest["moe_block"], newest["moe_block_tail"]
    times = [shown(each.time(name) or 0) for each, name in ((block, "grouped_mm"), (block, "moe_cute"))]
    speedups = [rounded_down(each.ratio or 0, 2) for each in (block, oldest["moe_block"])]
    tails = [shown(tail.time(name) or 0) for name in ("transformers", "moe_cute")]
    assert list(row.groups()) == [*times, *speedups, *tails]
