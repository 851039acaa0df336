"""The benchmark suite's own tests: report maths, results file, plots, operands, correctness check, peers."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("matplotlib", reason="the plots need matplotlib")

from benchmarks import comparison, peers, plot, records, report, runner, shapes, triton_peers, verdicts
from benchmarks.__main__ import app
from benchmarks.correctness import find_error, reference
from benchmarks.measure import Sample, measure_cpu
from benchmarks.operands import CPU_CACHE_BYTES, Operands, make_operands, rotating_operands
from benchmarks.providers import PLAIN, Call, Provider, SglangTriton, Torch
from benchmarks.records import COLUMNS, Record, RecordError, Results, Writer
from benchmarks.shapes import Case

CPU = torch.device("cpu")
CASE = Case("bfloat16", 8, 64, 5)
HEADER = {"device": "a device: with a colon", "date": "2026-01-02"}


def record(
    provider: str, median_us: float | None, case: Case = CASE, grid: str = "main", measure: str = "cold"
) -> Record:
    row = Record(grid, measure, provider, case.dtype, case.topk, case.hidden, case.tokens, case.layout, case.epilogue)
    gbps = case.bytes_moved / median_us / 1e3 if median_us else None
    return replace(row, median_us=median_us, p20_us=median_us, p80_us=median_us, gbps=gbps)


def rows(
    times: dict[str, float | None], cases: tuple[Case, ...], grid: str = "main", measure: str = "cold"
) -> list[Record]:
    return [record(name, time, case, grid, measure) for case in cases for name, time in times.items()]


def verdict(found: list[Record], beginning: str) -> verdicts.Verdict:
    (one,) = (each for each in verdicts.judge(comparison.compare(found)) if each.bound.startswith(beginning))
    return one


def write(path: Path, found: list[Record]) -> Path:
    with path.open("w") as file:
        Writer(file, HEADER).write(found)
    return path


# Bytes


@pytest.mark.parametrize(
    ("epilogue", "expected"),
    [
        ("plain", 100 * 9 * 2048 * 2),
        ("weighted", 100 * (9 * 2048 * 2 + 8 * 4)),
        ("weighted_shared", 100 * (10 * 2048 * 2 + 8 * 4)),
        ("unpermute_weighted", 100 * (9 * 2048 * 2 + 8 * 4 + 8 * 4)),
        ("unpermute_weighted_shared", 100 * (10 * 2048 * 2 + 8 * 4 + 8 * 4)),
        ("half_skipped", 100 * (5 * 2048 * 2 + 8 * 4 + 8 * 4)),
        ("live_64", 64 * (9 * 2048 * 2 + 8 * 4)),
    ],
)
def test_bytes_moved_counts_each_needed_byte_once(epilogue: str, expected: int) -> None:
    assert Case("bfloat16", 8, 2048, 100, epilogue=epilogue).bytes_moved == expected


# Report maths


def test_geometric_mean() -> None:
    assert comparison.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert comparison.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    assert comparison.geometric_mean([3.0, 0.0]) == 0.0
    with pytest.raises(ValueError, match="no values"):
        comparison.geometric_mean([])


def test_each_token_count_is_in_one_band() -> None:
    for tokens, expected in ((1, 0), (64, 0), (65, 1), (1024, 1), (1025, 2), (100_000, 2)):
        (one,) = comparison.compare([record("torch", 1.0, replace(CASE, tokens=tokens))])
        assert [bool(comparison.in_band([one], low, high)) for _, low, high in comparison.BANDS].index(True) == expected


def test_best_peer_leaves_out_what_no_engine_runs_and_who_has_no_time() -> None:
    times = {"moe_cute": 2.0, "copy": 1.0, "triton": 1.5, "triton_tuned": 1.2, "torch": 5.0, "sgl": 3.0, "vllm": None}
    (one,) = comparison.compare(rows(times, (CASE,)))
    assert one.best_peer == ("sgl", 3.0)
    assert one.ratio == pytest.approx(1.5)
    assert one.ratio_to("torch") == pytest.approx(2.5)
    assert one.ratio_to("vllm") is None


@pytest.mark.parametrize(
    ("rivals", "expected"),
    [
        ({"sglang_triton": 3.0, "triton": 1.0}, 0.5),
        ({"sglang_triton": 1.0, "triton": 3.0}, 0.5),
        ({"sglang_triton": 3.0, "triton": None}, 1.5),
        ({"triton": 3.0, "triton_tuned": 1.0}, 1.5),
        ({"triton_tuned": 1.0}, None),
    ],
)
def test_our_own_triton_kernel_counts_where_it_is_faster_than_the_peers(
    rivals: dict[str, float | None], expected: float | None
) -> None:
    (one,) = comparison.compare(rows({"moe_cute": 2.0, **rivals}, (CASE,)))
    assert one.ratio_with_triton == expected


def test_a_point_without_our_time_is_lost_not_left_out() -> None:
    (failed,) = comparison.compare(rows({"moe_cute": None, "torch": 5.0}, (CASE,)))
    assert failed.ratio == 0.0
    (not_asked,) = comparison.compare(rows({"torch": 5.0}, (CASE,)))
    assert not_asked.ratio is None


def test_grids_and_measures_are_kept_apart() -> None:
    found = rows({"moe_cute": 1.0}, (CASE,)) + rows({"moe_cute": 1.0}, (CASE,), measure="chain")
    found += rows({"moe_cute": 1.0}, (CASE,), grid="outside")
    assert len(comparison.compare(found)) == 3


# Verdicts


def test_cold_bounds_hold_and_one_slow_point_breaks_the_lowest() -> None:
    good = rows({"moe_cute": 1.0, "sgl": 1.7, "sglang_triton": 1.5}, shapes.MAIN)
    assert verdict(good, "cold, against the best peer, any point").passed
    assert verdict(good, "cold, against the best peer, up to 64").passed
    assert verdict(good, "cold, against sgl").passed
    slow = good[3:] + rows({"moe_cute": 1.0, "sglang_triton": 0.97}, shapes.MAIN[:1])
    broken = verdict(slow, "cold, against the best peer, any point")
    assert broken.passed is False
    assert "0.970" in broken.measured and str(shapes.MAIN[0]) in broken.measured


def test_means_are_judged_band_by_band() -> None:
    found = rows({"moe_cute": 1.0, "sglang_triton": 1.2}, shapes.MAIN)
    assert verdict(found, "cold, against the best peer, up to 64").passed is False
    assert verdict(found, "cold, against the best peer, 65 to 1024").passed
    assert verdict(found, "cold, against the best peer, above 1024").passed


@pytest.mark.parametrize(
    ("grid", "measure", "where", "what"),
    [
        ("main", "cold", "cold", "any point"),
        ("main", "cold", "cold", "up to 64 tokens, geometric mean"),
        ("main", "cold", "cold", "65 to 1024 tokens, geometric mean"),
        ("main", "cold", "cold", "above 1024 tokens, geometric mean"),
        ("main", "chain", "behind an ordinary producer", "any point"),
        ("main", "chain", "behind an ordinary producer", "geometric mean"),
        ("main", "chain_pdl", "behind a producer that triggers", "any point"),
        ("main", "chain_pdl", "behind a producer that triggers", "geometric mean"),
        ("outside", "cold", "outside the grid", "any point"),
    ],
)
def test_our_own_triton_kernel_has_a_line_of_its_own_beside_the_peers(
    grid: str, measure: str, where: str, what: str
) -> None:
    def words(times: dict[str, float | None]) -> list[str]:
        found = rows({"moe_cute": 1.0, **times}, shapes.GRIDS[grid], grid, measure)
        lines = [f"{where}, against {rivals}, {what}:" for rivals, _ in verdicts.RIVALS]
        return [verdict(found, line).word for line in lines]

    assert words({"sgl": 1.7, "triton": 1.7}) == ["pass", "pass"]
    assert words({"sgl": 1.7, "triton": 0.9}) == ["pass", "FAIL"]
    assert words({"sgl": 0.9, "triton": 1.7}) == ["FAIL", "FAIL"]
    assert words({"sgl": 1.7, "triton": 1.7, "triton_tuned": 0.9}) == ["pass", "pass"]


def test_a_mean_behind_a_producer_is_over_all_points() -> None:
    half = len(shapes.MAIN) // 2
    found = rows({"moe_cute": 1.0, "sgl": 2.0}, shapes.MAIN[:half], measure="chain")
    found += rows({"moe_cute": 1.0, "sgl": 1.0}, shapes.MAIN[half : 2 * half], measure="chain")
    line = "behind an ordinary producer, against the best peer, geometric mean"
    assert verdict(found, line).measured == f"{2**0.5:.3f} ({2 * half} points)"


def test_triton_tuned_at_each_point_has_a_line_of_its_own() -> None:
    found = rows({"moe_cute": 1.0, "sgl": 1.7, "triton": 1.7, "triton_tuned": 0.9}, shapes.MAIN)
    assert verdict(found, "cold, against Triton tuned at each point").passed is False


def test_what_was_not_measured_does_not_pass() -> None:
    assert {each.passed for each in verdicts.judge([])} == {None}


def test_copy_bound_looks_only_at_64_megabytes_and_more() -> None:
    small, large = Case("bfloat16", 8, 2048, 64), Case("bfloat16", 8, 7168, 8192)
    beginning = "from 64 MB on"
    assert verdict(rows({"moe_cute": 2.0, "copy": 1.0}, (small,)), beginning).passed is None
    assert verdict(rows({"moe_cute": 1.0, "copy": 1.04}, (large,)), beginning).passed
    assert verdict(rows({"moe_cute": 1.0, "copy": 1.02}, (large,)), beginning).passed is False


@pytest.mark.parametrize(("ours", "passed"), [(6.4, True), (6.5, False)])
def test_host_bound(ours: float, passed: bool) -> None:
    found = rows({"moe_cute": ours, "sgl": 6.4}, (shapes.HOST_CASE,), "host", "host")
    assert verdict(found, "host time").passed is passed


@pytest.mark.parametrize(("misaligned", "passed"), [(15.9, True), (16.1, False)])
def test_layout_bound_compares_with_the_contiguous_twin(misaligned: float, passed: bool) -> None:
    twin = Case("bfloat16", 8, 2048, 1024)
    found = rows({"moe_cute": 10.0}, (twin,), "layout")
    found += rows({"moe_cute": misaligned}, (replace(twin, layout="offset"),), "layout")
    assert verdict(found, "offset input").passed is passed
    assert verdict(found, "padded_rows input").passed is None


@pytest.mark.parametrize(("live_us", "passed"), [(2.5, True), (2.7, False)])
def test_live_tokens_bound_compares_with_as_many_tokens(live_us: float, passed: bool) -> None:
    found = rows({"moe_cute": 2.0}, (Case("bfloat16", 8, 2048, 64, epilogue="weighted"),), "fused")
    found += rows({"moe_cute": live_us}, (Case("bfloat16", 8, 2048, 8192, epilogue="live_64"),), "fused")
    assert verdict(found, "64 live tokens").passed is passed


def test_fused_bandwidth_bound_counts_the_bytes_of_each_epilogue() -> None:
    plain = Case("bfloat16", 8, 2048, 1024)
    shared = replace(plain, epilogue="weighted_shared")
    in_proportion = 10.0 * shared.bytes_moved / plain.bytes_moved
    found = rows({"moe_cute": 10.0}, (plain,), "fused") + rows({"moe_cute": in_proportion}, (shared,), "fused")
    assert verdict(found, "weighted_shared, 1024").measured.startswith("1.000")


# Results file


def test_results_file_round_trip(tmp_path: Path) -> None:
    found = [record("moe_cute", 1.25), replace(record("sgl", None), error='wrong, "quoted"')]
    results = records.read(write(tmp_path / "run.csv", found))
    assert results.header == HEADER
    assert [replace(row, gbps=None) for row in results.records] == [replace(row, gbps=None) for row in found]
    assert results.records[0].gbps == pytest.approx(found[0].gbps, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# a: b\nprovider,median_us\n", r"run\.csv:2: the columns are 'provider,median_us'"),
        ("", r"run\.csv:1: the columns are ''"),
        (",".join(COLUMNS) + "\nmain,cold\n", r"run\.csv:2: 2 values, expected 16"),
        (",".join(COLUMNS) + "\nmain,cold,sgl,bfloat16,8,2048,many,contiguous,plain,,,,,,,\n", "tokens is 'many'"),
        (",".join(COLUMNS) + "\nmain,cold,sgl,bfloat16,8,2048,1,contiguous,plain,fast,,,,,,\n", "median_us is 'fast'"),
    ],
)
def test_bad_results_file_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.csv"
    path.write_text(content)
    with pytest.raises(RecordError, match=message):
        records.read(path)


def test_missing_and_binary_results_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        records.read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not a text file"):
        records.read(tmp_path / "binary.csv")


# Report, plot and command line


def test_report_shows_times_verdicts_and_reasons(tmp_path: Path) -> None:
    found = [*rows({"moe_cute": 1.0, "sgl": 1.709}, shapes.MAIN), replace(record("vllm", None), error="no such thing")]
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    report.print_report(Results(HEADER, found), console)
    text = console.export_text()
    assert "bfloat16 [8192, 8, 7168]" in text and "1.71" in text
    assert "1.70" in text  # how many times as fast, which is rounded down
    assert "no time for vllm: no such thing" in text
    assert "cold, against sgl, geometric mean: at least 1.65" in text and "not measured" in text


@pytest.mark.parametrize(
    ("grid", "judged"), [(grid, grid != "cpu") for grid in shapes.GRIDS] + [("host", True), ("moe_block", False)]
)
def test_bounds_are_held_only_against_the_grids_that_they_are_about(tmp_path: Path, grid: str, judged: bool) -> None:
    path = write(tmp_path / "run.csv", rows({"moe_cute": 1.0}, (CASE,), grid))
    shown = CliRunner().invoke(app, ["report", str(path)])
    assert shown.exit_code == 0 and ("not measured" in shown.output) is judged
    checked = CliRunner().invoke(app, ["report", "--check", str(path)])
    assert checked.exit_code == 1 and ("no grid that a bound is about" in checked.output) is not judged


def test_report_names_the_best_peer_and_shows_our_own_triton_kernel_beside_it(tmp_path: Path) -> None:
    found = rows({"moe_cute": 2.0, "sgl": 3.0, "sglang_triton": 2.5, "triton": 1.5}, (CASE,))
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    report.print_report(Results(HEADER, found), console)
    lines = [[cell.strip() for cell in line.split("│")] for line in console.export_text().splitlines()]
    (row,) = (cells for cells in lines if str(CASE) in cells)
    assert row[2:-1] == ["2.00", "3.00", "2.50", "1.50", "sglang_triton", "1.25", "0.75", "1.50", ""]
    for name in ("geometric mean, up to 64 tokens", "lowest"):
        (summary,) = (cells for cells in lines if name in cells)
        assert summary[-5:-1] == ["1.25", "0.75", "1.50", ""]


def test_each_provider_has_a_colour_of_its_own() -> None:
    assert {provider.name for provider in PLAIN} == set(plot.COLOURS)
    assert len(set(plot.COLOURS.values())) == len(plot.COLOURS)


def test_plots_are_written_and_their_svg_does_not_change(tmp_path: Path) -> None:
    cases = tuple(replace(CASE, tokens=tokens) for tokens in (1, 16, 256))
    results = Results(HEADER, rows({"moe_cute": 1.0, "copy": 0.9, "a new peer": 2.0}, cases))
    paths = plot.plot(results, tmp_path / "one", "run")
    names = {"run_cold_time.png", "run_cold_time.svg", "run_cold_bandwidth.png", "run_cold_bandwidth.svg"}
    assert {path.name for path in paths} == names
    assert all(path.stat().st_size > 1000 for path in paths)
    plot.plot(results, tmp_path / "two", "run")
    svg = "run_cold_time.svg"
    assert (tmp_path / "one" / svg).read_bytes() == (tmp_path / "two" / svg).read_bytes()


def test_nothing_to_plot_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="nothing to plot"):
        plot.plot(Results(HEADER, [record("moe_cute", None)]), tmp_path, "run")


def test_command_line_refuses_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("nonsense\n")
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "bad.csv")])
    assert refused.exit_code == 2 and "bad.csv:1" in refused.output
    unknown = CliRunner().invoke(app, ["run", "--device", "cpu", "--grid", "mian", "--out", str(tmp_path)])
    assert unknown.exit_code == 2 and "mian" in unknown.output


def test_report_check_fails_unless_every_bound_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "run.csv", rows({"moe_cute": 1.0, "sgl": 1.7}, shapes.MAIN))
    assert CliRunner().invoke(app, ["report", str(path)]).exit_code == 0
    assert CliRunner().invoke(app, ["report", "--check", str(path)]).exit_code == 1


# Operands and correctness


def test_rotating_operands_exceed_the_cache() -> None:
    case = Case("bfloat16", 8, 2048, 16)
    operands = rotating_operands(case, CPU)
    assert len(operands) * case.bytes_moved >= 3 * CPU_CACHE_BYTES
    assert len({each.input.data_ptr() for each in operands}) == len(operands)


@pytest.mark.parametrize("layout", shapes.LAYOUTS)
def test_layouts_are_what_they_say(layout: str) -> None:
    first, second = make_operands(replace(CASE, hidden=100, layout=layout), CPU, count=2)
    itemsize = first.input.element_size()
    assert first.input.shape == (5, 8, 100)
    assert first.input.storage_offset() == (1 if layout == "offset" else 0)
    assert (second.input.data_ptr() - first.input.data_ptr()) % 256 == 0
    assert first.input.is_contiguous() == (layout != "padded_rows")
    assert first.input.stride(1) * itemsize == 200 + (128 if layout == "padded_rows" else 0)


@pytest.mark.parametrize("epilogue", shapes.EPILOGUES)
def test_the_check_passes_the_reference_and_sees_each_kind_of_mistake(epilogue: str) -> None:
    case = replace(CASE, tokens=100, epilogue=epilogue)
    operands = make_operands(case, CPU, count=2)[1]

    def right(each: Operands) -> None:
        each.output[: case.live_tokens] = reference(each, case, 2.5)[0]

    def one_element_unwritten(each: Operands) -> None:
        right(each)
        each.output[0, -1] = float("nan")

    def one_row_of_another_token(each: Operands) -> None:
        right(each)
        each.output[1] = each.output[0].clone()

    assert find_error(right, case, operands, 2.5) is None
    assert "1 of" in (find_error(one_element_unwritten, case, operands, 2.5) or "")
    assert "epsilons" in (find_error(one_row_of_another_token, case, operands, 2.5) or "")
    assert "unwritten" in (find_error(lambda each: None, case, operands, 2.5) or "")
    assert "epsilons" in (find_error(right, case, operands, 2.4) or "")


def test_a_sum_of_zeros_is_right_where_it_is_zero() -> None:
    """Among millions of random numbers there is one now and then, which may be all that a token of one slot has."""
    case = replace(CASE, topk=1, epilogue="weighted")
    operands = make_operands(case, CPU, count=1)[0]
    operands.input[2, 0, 7] = 0.0

    def call(each: Operands, there: float = 0.0) -> None:
        each.output[:] = reference(each, case, 2.5)[0]
        each.output[2, 7] = there

    assert find_error(call, case, operands, 2.5) is None
    assert "inf epsilons" in (find_error(lambda each: call(each, 1e-30), case, operands, 2.5) or "")


def test_half_of_each_tokens_slots_are_skipped() -> None:
    (operands,) = make_operands(replace(CASE, epilogue="half_skipped"), CPU, count=1)
    assert operands.inv_permuted_idx is not None
    assert (operands.inv_permuted_idx < 0).sum(dim=1).tolist() == [4] * 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("layout", shapes.LAYOUTS)
def test_torch_provider_is_right(dtype: str, layout: str) -> None:
    case = Case(dtype, 7, 33, 9, layout)
    operands = make_operands(case, CPU, count=2)
    assert find_error(Torch().prepare(case, operands, 2.5), case, operands[1], 2.5) is None


# Running


class Failing(Provider):
    name = "failing"

    def prepare(self, case: Case, operands: object, scale: float) -> Call:
        raise RuntimeError("first line\nsecond line")


class Wrong(Provider):
    name = "wrong"

    def prepare(self, case: Case, operands: object, scale: float) -> Call:
        return lambda each: each.output.zero_()


class Absent(Torch):
    name = "absent"

    def available(self, device: torch.device) -> str | None:
        return "not installed"


def test_a_run_times_who_is_right_and_says_why_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PLAIN", (Torch(), Failing(), Wrong(), Absent()))
    path = tmp_path / "run.csv"
    with path.open("w") as file:
        bench = runner.Runner(CPU, Writer(file, HEADER), quick=True)
        bench.run_grid("cpu", [replace(CASE, hidden=2048, tokens=64)], ["cold"], Console())
    found = {row.provider: row for row in records.read(path).records}
    assert found["torch"].median_us and found["torch"].gbps and not found["torch"].error
    assert found["failing"].error == "RuntimeError: first line second line"
    assert found["wrong"].error.startswith("wrong: off by")
    assert found["absent"].error == "not installed"
    assert [found[name].median_us for name in ("failing", "wrong", "absent")] == [None] * 3


def test_cpu_measure_orders_a_sample_and_visits_every_buffer() -> None:
    visited: set[int] = set()
    samples = measure_cpu({"one": visited.add, "two": lambda buffer: None}, range(7), replays=5)
    assert visited == set(range(7))
    assert all(0 < sample.p20_us <= sample.median_us <= sample.p80_us for sample in samples.values())


def test_sample_is_the_median_with_its_spread() -> None:
    assert Sample.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0]) == Sample(3.5, 2.0, 5.0)


def test_quick_keeps_three_token_counts_of_each_shape() -> None:
    kept = shapes.quick(shapes.MAIN)
    assert sorted({case.tokens for case in kept if case.hidden == 7168}) == [1, 64, 8192]
    assert {(case.dtype, case.topk, case.hidden) for case in kept} == {
        (case.dtype, case.topk, case.hidden) for case in shapes.MAIN
    }


# Peers


@pytest.mark.parametrize("pack", [False, True])
def test_fetched_peers_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: bool) -> None:
    peer = peers.PeerFile("some-peer", "1.0", "no_such_package/kernels.so")

    def download(distribution: str, version: str, folder: Path) -> Path:
        wheel = folder / f"{distribution}-{version}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(peer.member, b"machine code")
        return wheel

    monkeypatch.setattr(peers, "FILES", (peer,))
    monkeypatch.setattr(peers, "_download", download)
    (written,) = peers.fetch(tmp_path, pack)
    assert list(tmp_path.iterdir()) == [written]
    assert written.suffix == (".xz" if pack else ".so")
    assert peer.find(tmp_path).read_bytes() == b"machine code"


def test_a_peer_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(peers.PeerError, match=r"some-peer 1\.0 is not here: run `python -m benchmarks\.peers fetch`"):
        peers.PeerFile("some-peer", "1.0", "no_such_package/kernels.so").find(tmp_path)


PYTHON_PEER = peers.PeerFile("some-peer", "1.0", "no_such_package/kernels.py")


def test_a_file_is_imported_alone_and_its_stand_ins_go_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PYTHON_PEER.cache_name).write_text(
        "from no_such_package.a import one\nfrom no_such_package.b import two"
    )
    imported_before = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "no_such_package.a", imported_before)
    stand_ins = {"no_such_package.a": SimpleNamespace(one=1), "no_such_package.b": SimpleNamespace(two=2)}
    module = triton_peers.import_file(PYTHON_PEER, stand_ins, tmp_path)
    assert (module.one, module.two) == (1, 2)
    with pytest.raises(ImportError, match="one"):
        triton_peers.import_file(PYTHON_PEER, {**stand_ins, "no_such_package.a": SimpleNamespace()}, tmp_path)
    assert sys.modules["no_such_package.a"] is imported_before
    assert "no_such_package.b" not in sys.modules


def test_an_installed_peer_is_imported_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "installed_peer"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "kernels.py").write_text("from installed_peer import __name__ as package")
    monkeypatch.syspath_prepend(tmp_path)
    module = triton_peers.import_file(peers.PeerFile("some-peer", "1.0", "installed_peer/kernels.py"), {}, tmp_path)
    assert (module.__name__, module.package) == ("installed_peer.kernels", "installed_peer")


@pytest.mark.parametrize("kernel", [triton_peers.vllm_mul_sum, triton_peers.sglang_sum_reduce])
def test_the_triton_peers_import(kernel: Callable[[], object]) -> None:
    pytest.importorskip("triton")
    try:
        assert callable(kernel())
    except peers.PeerError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(("capability", "expected"), [((8, 9), False), ((9, 0), True), ((12, 0), True)])
def test_sglangs_kernel_is_told_the_truth_about_pdl(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    utils = triton_peers.sglang_stand_ins()["sglang.kernels.jit.utils"]
    assert isinstance(utils, SimpleNamespace) and utils.is_arch_support_pdl() is expected


def test_sglangs_kernel_refuses_what_it_would_get_wrong() -> None:
    provider = SglangTriton()
    assert [provider.supports(replace(CASE, layout=layout)) for layout in ("contiguous", "offset")] == [None, None]
    assert provider.supports(replace(CASE, layout="padded_rows")) == "contiguous input only"
    assert provider.supports(replace(CASE, dtype="float64")) == "no float64: it accumulates in float32"
    assert provider.supports(replace(CASE, epilogue="weighted")) == "plain sum only"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("layout", ["contiguous", "offset"])
def test_sglangs_kernel_is_right(dtype: str, layout: str) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    provider = SglangTriton()
    reason = provider.available(device)
    if reason:
        pytest.skip(reason)
    case = Case(dtype, 7, 2047, 9, layout)
    operands = make_operands(case, device, count=2)
    assert find_error(provider.prepare(case, operands, 2.5), case, operands[1], 2.5) is None
