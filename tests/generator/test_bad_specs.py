"""Every bad spec is refused with its place and key, what was found and what is allowed, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator import located_yaml

Generate = Callable[..., Any]
Snapshot = Callable[[], dict[str, bytes]]

TOPK = "topk: [8, any]"
WIDTHS16 = "float16: {vector_widths: [1, 2, 4, 8]}"
ARCHITECTURES = "80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121"
ROOT_KEYS = "edition, operator, backends, dtypes, hidden_sizes, topk, threads, epilogues"
A_TOPK = "a whole number from 1 to 32, or any"

# A line of the spec, what stands there instead, and the message it must give.
CASES = {
    "unknown key": (
        "edition: 1",
        "edition: 1\ncolour: red",
        f"2:1: colour: found an unknown key; allowed: the keys {ROOT_KEYS}",
    ),
    "unknown nested key": (
        "ptx: 90",
        "ptx: 90, sass: 1",
        "4:44: backends.cuda.sass: found an unknown key; allowed: the keys architectures, ptx",
    ),
    "unknown dtype": (
        "float64:",
        "float8:",
        "8:3: dtypes.float8: found an unknown key; allowed: the keys float16, bfloat16, float32, float64",
    ),
    "missing key": (TOPK + "\n", "", "1:1: topk: found nothing; allowed: this key is required"),
    "missing nested key": (
        ", ptx: 90",
        "",
        "4:9: backends.cuda.ptx: found nothing; allowed: this key is required",
    ),
    "duplicate key": (TOPK, f"{TOPK}\n{TOPK}", "11:1: topk: found the key again; allowed: once; first on line 10"),
    "merge key": (TOPK, f"{TOPK}\n<<: {{}}", f"11:1: <<: found an unknown key; allowed: the keys {ROOT_KEYS}"),
    "null": ("{vector_widths: [1, 2]}", "", "8:11: dtypes.float64: found nothing; allowed: a mapping"),
    "bool for a number": ("topk: [8", "topk: [true", f"10:8: topk[0]: found true; allowed: {A_TOPK}"),
    "bool for one": ("[1, 2]}", "[true, 1]}", "8:29: dtypes.float64.vector_widths[0]: found true; allowed: 1, 2"),
    "float for a number": ("topk: [8", "topk: [8.0", f"10:8: topk[0]: found 8.0; allowed: {A_TOPK}"),
    "float for one": ("[1, 2]}", "[1.0, 1]}", "8:29: dtypes.float64.vector_widths[0]: found 1.0; allowed: 1, 2"),
    "string for a number": ("topk: [8", 'topk: ["8"', f"10:8: topk[0]: found '8'; allowed: {A_TOPK}"),
    "hexadecimal": ("topk: [8", "topk: [0x8", f"10:8: topk[0]: found '0x8'; allowed: {A_TOPK}"),
    "endless number": (
        "topk: [8",
        f"topk: [{'8' * 5000}",
        f"10:8: topk[0]: found '{'8' * 59}... (5002 characters); allowed: {A_TOPK}",
    ),
    "number for a list": (TOPK, "topk: 8", "10:7: topk: found 8; allowed: a list"),
    "list for a mapping": (
        "{vector_widths: [1, 2]}",
        "[1, 2]",
        "8:12: dtypes.float64: found a list of 2; allowed: a mapping",
    ),
    "edition as a bool": (
        "edition: 1",
        "edition: true",
        "1:10: edition: found true; allowed: 1, the edition this generator reads",
    ),
    "edition as a string": (
        "edition: 1",
        "edition: '1'",
        "1:10: edition: found '1'; allowed: 1, the edition this generator reads",
    ),
    "unknown edition": (
        "edition: 1",
        "edition: 2",
        "1:10: edition: found 2; allowed: 1, the edition this generator reads",
    ),
    "unknown operator": ("sum_reduce", "max_reduce", "2:11: operator: found 'max_reduce'; allowed: sum_reduce"),
    "unknown architecture": (
        "[80, 90]",
        "[80, 95, 90]",
        f"4:30: backends.cuda.architectures[1]: found 95; allowed: {ARCHITECTURES}",
    ),
    "PTX of no architecture": (
        "ptx: 90",
        "ptx: 120",
        "4:40: backends.cuda.ptx: found 120; allowed: one of architectures: 80, 90",
    ),
    "unknown instruction set": (
        "[baseline, avx2]",
        "[baseline, avx3]",
        "5:38: backends.cpu.instruction_sets[1]: found 'avx3'; allowed: baseline, avx2, avx512",
    ),
    "no instruction set for every processor": (
        "[baseline, avx2]",
        "[avx2]",
        "5:27: backends.cpu.instruction_sets: found a list of 1; allowed: a list with baseline in it, which takes "
        "every call",
    ),
    "unknown epilogue": (
        "weighted, routed]",
        "fused, routed]",
        "12:20: epilogues[1]: found 'fused'; allowed: plain, weighted, permuted, routed",
    ),
    "C++ as a name": (
        "weighted, routed]",
        '"plain>; int x", routed]',
        "12:20: epilogues[1]: found 'plain>; int x'; allowed: plain, weighted, permuted, routed",
    ),
    "no epilogue for every call": (
        "weighted, routed]",
        "weighted]",
        "12:12: epilogues: found a list of 2; allowed: a list with routed in it, which takes every call",
    ),
    "width not a power of two": (
        WIDTHS16,
        "float16: {vector_widths: [1, 2, 3, 8]}",
        "7:35: dtypes.float16.vector_widths[2]: found 3; allowed: 1, 2, 4, 8",
    ),
    "width past 16 bytes": ("[1, 2]}", "[1, 4]}", "8:32: dtypes.float64.vector_widths[1]: found 4; allowed: 1, 2"),
    "no width for misaligned calls": (
        WIDTHS16,
        "float16: {vector_widths: [2, 4, 8]}",
        "7:28: dtypes.float16.vector_widths: found a list of 3; allowed: a list with 1 in it, which takes every call",
    ),
    "no kernel for other topk": (
        TOPK,
        "topk: [8]",
        "10:7: topk: found a list of 1; allowed: a list with any in it, which takes every call",
    ),
    "hidden size that no vector divides": (
        "[4096, any]",
        "[4096, 4097, any]",
        "9:22: hidden_sizes[1]: found 4097; "
        "allowed: a multiple of one of float16's vectors of 4, 8 or 16 bytes: 2, 4, 8",
    ),
    "hidden size too small": (
        "[4096, any]",
        "[0, any]",
        "9:16: hidden_sizes[0]: found 0; allowed: a whole number from 1 to 1048576, or any",
    ),
    "hidden size too large": (
        "[4096, any]",
        "[1048577, any]",
        "9:16: hidden_sizes[0]: found 1048577; allowed: a whole number from 1 to 1048576, or any",
    ),
    "negative topk": ("topk: [8", "topk: [-8", f"10:8: topk[0]: found -8; allowed: {A_TOPK}"),
    "topk too large": ("topk: [8", "topk: [33", f"10:8: topk[0]: found 33; allowed: {A_TOPK}"),
    "threads not of whole warps": (
        "[128, 256]",
        "[100]",
        "11:11: threads[0]: found 100; allowed: a multiple of 32 from 32 to 512",
    ),
    "empty list": ("[128, 256]", "[]", "11:10: threads: found an empty list; allowed: at least 1 item"),
    "empty mapping": (
        f"\n  {WIDTHS16}\n  float64: {{vector_widths: [1, 2]}}",
        " {}",
        "6:9: dtypes: found an empty mapping; allowed: at least one of float16, bfloat16, float32, float64",
    ),
    "duplicate in a list": (
        "[128, 256]",
        "[128, 256, 128]",
        "11:21: threads[2]: found 128 again; allowed: each item once",
    ),
    "a list of a million": (
        TOPK,
        f"topk: [{', '.join(map(str, range(1_000_000)))}]",
        "10:1178: topk[256]: found one more item; allowed: at most 256",
    ),
    "tag": ("topk: [8", "topk: [!!int 8", "10:8: topk[0]: found tag tag:yaml.org,2002:int; allowed: no tags"),
    "python tag": (
        TOPK,
        "topk: !!python/object/apply:os.system [exit]",
        "10:7: topk: found tag tag:yaml.org,2002:python/object/apply:os.system; allowed: no tags",
    ),
    "anchor": ("topk: [8", "topk: [&eight 8", "10:8: topk[0]: found anchor &eight; allowed: no anchors"),
    "alias": ("topk: [8", "topk: [*eight", "10:8: topk[0]: found alias *eight; allowed: the value itself, written out"),
    "second document": (
        "epilogues: [plain, weighted, routed]\n",
        "epilogues: [plain]\n---\n{}",
        "13:1: found a second document; allowed: one document",
    ),
    "deep nesting": (
        TOPK,
        f"topk: {'[' * 100_000}",
        "10:15: topk[0][0][0][0][0][0][0][0]: found deeper nesting; allowed: at most 8 levels",
    ),
    "key that is no word": (TOPK, "[topk]: 8", "10:1: found a key that is not a word; allowed: words as keys"),
    "control character": (TOPK, "topk: \x07", "10:7: found character '\\x07'; allowed: printable text"),
}


@pytest.mark.parametrize(("old", "new", "message"), CASES.values(), ids=CASES.keys())
def test_is_refused_at_its_place(
    old: str, new: str, message: str, spec: Path, generate: Generate, snapshot: Snapshot
) -> None:
    assert generate().exit_code == 0
    before = snapshot()
    good = spec.read_text()
    assert good.count(old) == 1
    spec.write_text(good.replace(old, new))
    result = generate()
    assert f"spec.yaml:{message}" in result.stderr.splitlines()
    assert result.exit_code == 2
    assert snapshot() == before


def test_all_problems_are_reported_at_once(spec: Path, generate: Generate) -> None:
    spec.write_text(
        spec.read_text().replace("[80, 90]", "[80, 80]").replace("[1, 2]}", "[1, 3], x: 1}").replace("8, any", "0")
    )
    result = generate()
    assert [line.split(": found")[0] for line in result.stderr.splitlines()] == [
        "spec.yaml:4:30: backends.cuda.architectures[1]",
        "spec.yaml:8:32: dtypes.float64.vector_widths[1]",
        "spec.yaml:8:36: dtypes.float64.x",
        "spec.yaml:10:8: topk[0]",
    ]


def test_bytes_that_are_not_utf_8(spec: Path, generate: Generate) -> None:
    spec.write_bytes(b"edition: 1\noperator: \xff\n")
    result = generate()
    assert (result.exit_code, result.stderr) == (2, "spec.yaml:2:11: found byte 0xff; allowed: UTF-8 text\n")


def test_a_missing_file(spec: Path, generate: Generate) -> None:
    spec.unlink()
    result = generate()
    assert (result.exit_code, result.stderr) == (2, "spec.yaml: found no such file; allowed: a YAML file\n")


def test_a_directory(spec: Path, generate: Generate) -> None:
    spec.unlink()
    spec.mkdir()
    result = generate()
    assert (result.exit_code, result.stderr) == (2, "spec.yaml: found a directory; allowed: a YAML file\n")


def test_a_huge_file(spec: Path, generate: Generate) -> None:
    with spec.open("wb") as file:
        file.truncate(1 << 40)
    result = generate()
    assert result.exit_code == 2
    assert result.stderr == f"spec.yaml: found {1 << 40} bytes; allowed: at most {located_yaml.MAX_BYTES}\n"


def test_a_name_that_no_file_has(generate: Generate) -> None:
    result = generate("--spec", "a" * 300)
    assert result.exit_code == 2
    assert "allowed: a YAML file" in result.stderr


def test_one_key_without_end(spec: Path, generate: Generate) -> None:
    spec.write_text("edition: 1\n" * 100_000)
    result = generate()
    assert result.exit_code == 2
    assert result.stderr.count("\n") <= located_yaml.MAX_ITEMS + 1
    assert f"found one more key; allowed: at most {located_yaml.MAX_ITEMS}" in result.stderr


def test_an_empty_file(spec: Path, generate: Generate) -> None:
    spec.write_text("")
    result = generate()
    assert (result.exit_code, result.stderr) == (2, "spec.yaml:1:1: found nothing; allowed: a mapping\n")


def test_an_alias_bomb_is_refused_at_its_first_anchor(spec: Path, generate: Generate) -> None:
    levels = [f"  - &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 10)]
    spec.write_text("\n".join(["topk:", "  - &l0 [any]", *levels]))
    result = generate()
    assert result.exit_code == 2
    assert result.stderr.startswith("spec.yaml:2:5: topk[0]: found anchor &l0; allowed: no anchors\n")


def test_line_100_is_told_as_such(spec: Path, generate: Generate) -> None:
    spec.write_text("\n" * 99 + spec.read_text().replace("edition: 1", "edition: 2"))
    assert generate().stderr == "spec.yaml:100:10: edition: found 2; allowed: 1, the edition this generator reads\n"


def test_a_key_cannot_break_its_line(spec: Path, generate: Generate) -> None:
    spec.write_text(spec.read_text() + '"a\\nb": 1\n')
    assert generate().stderr.startswith("spec.yaml:13:1: 'a\\nb': found an unknown key; allowed: the keys edition, ")
