"""Measured launches become rows of the table; wrong ones are refused like wrong specs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator import rules, spec, tuning

Generate = Callable[..., Any]
Snapshot = Callable[[], dict[str, bytes]]

SM90 = """\
edition: 1
architecture: 90
ladders:
- behind: ordinary
  dtype: float64
  epilogue: plain
  topk: any
  l2_mib: 60
  measured: {gpu: NVIDIA H200, date: 2026-11-22, driver: "580.1", cuda: "13.0", torch: 2.11.0}
  steps:
  - {outputs: any, vector_width: 2, threads: 256, prefetch_kib: 0}
- behind: trigger
  dtype: float16
  epilogue: plain
  topk: 8
  l2_mib: 50
  measured: {gpu: NVIDIA H100, date: 2026-11-25, driver: "580.2", cuda: "13.1", torch: 2.12.0}
  steps:
  - {outputs: 8192, vector_width: 4, threads: 128, prefetch_kib: 40}
  - {outputs: any, vector_width: 8, threads: 256, prefetch_kib: 0}
"""


@pytest.fixture
def sm90(spec: Path) -> Path:
    path = spec.parent / "tuning" / "sm90.yaml"
    path.parent.mkdir()
    path.write_text(SM90)
    return path


def rows(out: Path) -> list[str]:
    table = (out / "variants.cpp").read_text()
    return [line.strip() for line in table.splitlines() if line.strip().startswith(("{80", "{90"))]


def test_the_steps_are_rows_in_the_order_they_are_tried(sm90: Path, out: Path, generate: Generate) -> None:
    sm80 = SM90.replace("90", "80", 1)[: SM90.index("- behind: trigger")]
    (sm90.parent / "sm80.yaml").write_text(sm80)
    assert generate().exit_code == 0
    assert rows(out) == [
        "{80, false, DType::kFloat64, Epilogue::kPlain, kAny, 60, INT64_MAX, 2, 256, 0},",
        "{90, true, DType::kFloat16, Epilogue::kPlain, 8, 50, 8192, 4, 128, 40},",
        "{90, true, DType::kFloat16, Epilogue::kPlain, 8, 50, INT64_MAX, 8, 256, 0},",
        "{90, false, DType::kFloat64, Epilogue::kPlain, kAny, 60, INT64_MAX, 2, 256, 0},",
    ]


def test_without_a_file_there_are_no_rules(out: Path, generate: Generate) -> None:
    assert generate().exit_code == 0
    assert rows(out) == []


REMEDY = "; else delete the ladder, or measure it again by `make tune`"
EDITION = "1, the edition this generator reads"

# A part of the file, what stands there instead, and the message it must give.
CASES = {
    "unknown key": (
        "threads: 128,",
        "threads: 128, warps: 4,",
        "19:52: ladders[1].steps[0].warps: found an unknown key; "
        "allowed: the keys outputs, vector_width, threads, prefetch_kib",
    ),
    "unknown edition": ("edition: 1", "edition: 0", f"1:10: edition: found 0; allowed: {EDITION}"),
    "not the file's architecture": (
        "architecture: 90",
        "architecture: 80",
        "2:15: architecture: found 80 in sm90.yaml; allowed: 80 in sm80.yaml",
    ),
    "number for text": (
        '"13.0"',
        "13.0",
        "9:73: ladders[0].measured.cuda: found 13.0; allowed: one line of text, in quotes where it looks like a number",
    ),
    "text of two lines": (
        '"13.0"',
        '"13\\n#"',
        "9:73: ladders[0].measured.cuda: found '13\\n#'; "
        "allowed: one line of text, in quotes where it looks like a number",
    ),
    "word for an amount": (
        "prefetch_kib: 40",
        "prefetch_kib: true",
        "19:66: ladders[1].steps[0].prefetch_kib: found true; "
        "allowed: KiB that each multiprocessor asks for ahead, a whole number from 0 to 1024",
    ),
    "more than a cache holds": (
        "prefetch_kib: 40",
        "prefetch_kib: 1025",
        "19:66: ladders[1].steps[0].prefetch_kib: found 1025; "
        "allowed: KiB that each multiprocessor asks for ahead, a whole number from 0 to 1024",
    ),
    "dtype that is not built": (
        "dtype: float16",
        "dtype: float32",
        "13:10: ladders[1].dtype: found float32; allowed: what the spec lists: float16, float64" + REMEDY,
    ),
    "topk that is not built": (
        "topk: 8",
        "topk: 9",
        "15:9: ladders[1].topk: found 9; allowed: what the spec lists: 8, any" + REMEDY,
    ),
    "epilogue that is not built": (
        "epilogue: plain\n  topk: 8",
        "epilogue: permuted\n  topk: 8",
        "14:13: ladders[1].epilogue: found permuted; allowed: what the spec lists: plain, weighted, routed" + REMEDY,
    ),
    "width that is not built": (
        "vector_width: 2",
        "vector_width: 4",
        "11:34: ladders[0].steps[0].vector_width: found 4; allowed: what is built for it: 2, 1" + REMEDY,
    ),
    "launch behind something else": (
        "behind: ordinary",
        "behind: memcpy",
        "4:11: ladders[0].behind: found 'memcpy'; allowed: trigger, ordinary",
    ),
    "threads that the spec does not list": (
        "threads: 128",
        "threads: 64",
        "19:47: ladders[1].steps[0].threads: found 64; allowed: what is built for it: 128, 256" + REMEDY,
    ),
    "two ladders of a kind": (
        "- behind: ordinary\n  dtype: float64\n  epilogue: plain\n  topk: any\n  l2_mib: 60",
        "- behind: trigger\n  dtype: float16\n  epilogue: plain\n  topk: 8\n  l2_mib: 50",
        "12:3: ladders[1]: found another ladder for trigger, float16, plain, 8, 50; "
        "allowed: one for each behind, dtype, epilogue, topk and l2_mib",
    ),
    "sizes that fall": (
        "outputs: 8192, vector_width: 4",
        "outputs: any, vector_width: 4",
        "20:15: ladders[1].steps[1].outputs: found any; allowed: rising sizes, each once",
    ),
    "no launch for large outputs": (
        "outputs: any, vector_width: 8",
        "outputs: 16384, vector_width: 8",
        "20:15: ladders[1].steps[1].outputs: found 16384; allowed: any, in the last step",
    ),
    "no steps": (
        "  - {outputs: any, vector_width: 2, threads: 256, prefetch_kib: 0}\n",
        "  - []\n",
        "11:5: ladders[0].steps[0]: found an empty list; allowed: a mapping",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), CASES.values(), ids=CASES.keys())
def test_is_refused_at_its_place(
    old: str, new: str, message: str, sm90: Path, generate: Generate, snapshot: Snapshot
) -> None:
    assert generate().exit_code == 0
    before = snapshot()
    assert SM90.count(old) == 1
    sm90.write_text(SM90.replace(old, new))
    result = generate()
    assert f"tuning/sm90.yaml:{message}" in result.stderr.splitlines()
    assert result.exit_code == 2
    assert snapshot() == before


def test_a_fused_kernel_has_blocks_of_its_own(spec: Path, sm90: Path, generate: Generate) -> None:
    """Larger ones would run as smaller ones, and be called measured."""
    spec.write_text(spec.read_text().replace("[128, 256]", "[128, 256, 512]"))
    wide = SM90.replace("threads: 128", "threads: 512")
    sm90.write_text(wide)
    assert generate().exit_code == 0
    sm90.write_text(wide.replace("epilogue: plain\n  topk: 8", "epilogue: weighted\n  topk: 8"))
    result = generate()
    assert result.exit_code == 2
    assert (
        f"19:47: ladders[1].steps[0].threads: found 512; allowed: what is built for it: 128, 256{REMEDY}"
        in result.stderr
    )


def test_one_line_tells_of_all_steps(sm90: Path, generate: Generate) -> None:
    sm90.write_text(SM90.replace("threads: 128", "threads: 64").replace("8, threads: 256", "8, threads: 64"))
    assert generate().stderr.count("found 64") == 1


def test_before_sm_90_nothing_overlaps(sm90: Path, generate: Generate) -> None:
    (sm90.parent / "sm80.yaml").write_text(SM90.replace("90", "80", 1))
    result = generate()
    assert result.exit_code == 2
    assert result.stderr.splitlines()[:2] == [
        "tuning/sm80.yaml:12:11: ladders[1].behind: found trigger; allowed: ordinary, before sm_90",
        "tuning/sm80.yaml:19:66: ladders[1].steps[0].prefetch_kib: found 40; allowed: 0, before sm_90",
    ]


def test_what_is_written_reads_back_the_same(sm90: Path) -> None:
    built = spec.load(sm90.parents[1] / "spec.yaml")
    variants = rules.variants(built)
    measured = tuning.load(sm90, built, variants)
    tuning.write_tuning(sm90, measured)
    assert tuning.load(sm90, built, variants) == measured
    text = sm90.read_text()
    assert "  measured: {gpu: NVIDIA H100, date: '2026-11-25', driver: '580.2'," in text
    assert "`make tune`" in text
    assert "  - {outputs: 8192, vector_width: 4, threads: 128, prefetch_kib: 40}\n" in text


def test_a_new_folder_is_made_for_the_first_file(sm90: Path, tmp_path: Path) -> None:
    built = spec.load(sm90.parents[1] / "spec.yaml")
    measured = tuning.load(sm90, built, rules.variants(built))
    tuning.write_tuning(tmp_path / "new" / "sm90.yaml", measured)
    assert (tmp_path / "new" / "sm90.yaml").read_text().startswith("# ")


def test_a_folder_that_cannot_be_read_is_not_none(sm90: Path, generate: Generate) -> None:
    sm90.unlink()
    sm90.parent.rmdir()
    sm90.parent.write_text("")
    result = generate()
    assert result.exit_code == 2
    assert result.stderr.startswith("tuning: found an unreadable directory (Not a directory); allowed: a directory of")


def test_what_an_editor_leaves_is_not_read(sm90: Path, generate: Generate) -> None:
    (sm90.parent / ".#sm90.yaml").symlink_to("somebody@somewhere.1234")
    assert generate().exit_code == 0
