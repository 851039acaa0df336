"""What the generator does to a folder: the same bytes always, orphans removed, other people's files left alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.cli import ROOT

Generate = Callable[..., Any]
Snapshot = Callable[[], dict[str, bytes]]

WEIGHTED = "sum_reduce_cuda_f16_weighted.cu"
COMMAND = "python -m generator --spec spec.yaml --out out"


def test_a_second_run_writes_nothing(out: Path, generate: Generate) -> None:
    first = generate()
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    second = generate()
    assert "12 files: 12 created." in first.stdout
    assert second.stdout == "49 CUDA and 16 CPU variants; 12 files: 12 unchanged.\n"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times


def test_the_bytes_depend_on_the_spec_alone(spec: Path, out: Path, generate: Generate, snapshot: Snapshot) -> None:
    generate()
    expected = snapshot()
    for seed in ("0", "1"):
        elsewhere = out.parent / f"elsewhere {seed}"
        elsewhere.mkdir()
        subprocess.run(
            [sys.executable, "-m", "generator", "--spec", spec, "--out", "made here"],
            cwd=elsewhere,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "LC_ALL": "C"},
            check=True,
        )
        assert {path.name: path.read_bytes() for path in (elsewhere / "made here").iterdir()} == expected


def test_the_manifest_lists_every_variant_and_file(out: Path, generate: Generate) -> None:
    generate()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["cuda"] == {"architectures": [80, 90], "ptx": 90}
    assert manifest["threads"] == [128, 256]
    files = manifest["files"]
    listed = [*files["cuda"], *files["cpu"], files["table"], "manifest.json"]
    assert sorted(listed) == sorted(path.name for path in out.iterdir())
    for variant in manifest["variants"]:
        assert f"<{variant['name']}" in (out / variant["file"]).read_text()
        assert f'"{variant["name"]}"' in (out / files["table"]).read_text()


def test_plain_kernels_are_the_same_whatever_else_is_fused(spec: Path, generate: Generate, snapshot: Snapshot) -> None:
    generate()
    plain = {
        name: text for name, text in snapshot().items() if name in ("sum_reduce_cuda_f16.cu", "sum_reduce_cuda_f64.cu")
    }
    assert len(plain) == 2
    spec.write_text(spec.read_text().replace("[plain, weighted, routed]", "[plain, routed]"))
    generate()
    assert WEIGHTED not in snapshot()
    assert plain.items() <= snapshot().items()


def test_a_new_hidden_size_changes_the_tables_and_the_plain_kernels_alone(spec: Path, generate: Generate) -> None:
    generate()
    spec.write_text(spec.read_text().replace("[4096, any]", "[4096, 6144, any]"))
    changed = [line.split()[-1] for line in generate().stdout.splitlines() if line.strip().startswith("updated")]
    assert changed == [
        "out/manifest.json",
        "out/sum_reduce_cuda_f16.cu",
        "out/sum_reduce_cuda_f64.cu",
        "out/variants.cpp",
    ]


def test_orphans_are_removed(spec: Path, out: Path, generate: Generate) -> None:
    generate()
    spec.write_text(spec.read_text().replace("[plain, weighted, routed]", "[plain, routed]"))
    result = generate()
    assert result.exit_code == 0
    assert f"removed  out/{WEIGHTED}" in result.stdout
    assert not (out / WEIGHTED).exists()


def test_a_foreign_file_is_never_touched(out: Path, generate: Generate, snapshot: Snapshot) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    before = snapshot()
    for options in ([], ["--force"]):
        result = generate(*options)
        assert result.exit_code == 1
        assert (
            result.stderr == "out/notes.txt was not written by the generator: move it elsewhere\nNothing was written.\n"
        )
        assert snapshot() == before


def test_a_foreign_file_in_the_place_of_a_generated_one_is_never_touched(out: Path, generate: Generate) -> None:
    out.mkdir()
    (out / WEIGHTED).write_text("mine")
    assert generate("--force").exit_code == 1
    assert (out / WEIGHTED).read_text() == "mine"


def test_a_link_is_not_followed(out: Path, generate: Generate) -> None:
    generate()
    (out / WEIGHTED).rename(out.parent / "target.cu")
    (out / WEIGHTED).symlink_to(out.parent / "target.cu")
    result = generate()
    assert result.exit_code == 1
    assert f"out/{WEIGHTED} was not written by the generator" in result.stderr


def test_hidden_files_are_nobodys_business(out: Path, generate: Generate) -> None:
    generate()
    (out / ".swap").write_text("an editor's")
    assert generate().exit_code == 0
    assert generate("--check").exit_code == 0
    assert (out / ".swap").exists()


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("4096", "4097"))


@pytest.mark.parametrize("name", ["manifest.json", "sum_reduce_cuda_f16.cu", "variants.cpp"])
def test_a_hand_edited_file_is_overwritten_only_by_force(
    name: str, out: Path, generate: Generate, snapshot: Snapshot
) -> None:
    generate()
    good = snapshot()
    edit(out / name)
    edited = snapshot()
    result = generate()
    assert result.exit_code == 1
    assert f"out/{name} was edited by hand" in result.stderr
    assert snapshot() == edited
    forced = generate("--force")
    assert forced.exit_code == 0
    assert f"overwritten  out/{name}\n" in forced.stdout
    assert snapshot() == good


def test_a_hand_edited_orphan_is_removed_only_by_force(spec: Path, out: Path, generate: Generate) -> None:
    generate()
    (out / WEIGHTED).write_text((out / WEIGHTED).read_text() + "// an idea\n")
    spec.write_text(spec.read_text().replace("[plain, weighted, routed]", "[plain, routed]"))
    assert generate().exit_code == 1
    assert (out / WEIGHTED).exists()
    assert generate("--force").exit_code == 0
    assert not (out / WEIGHTED).exists()


def test_check_is_content_with_what_was_generated(generate: Generate) -> None:
    generate()
    result = generate("--check")
    assert (result.exit_code, result.stdout) == (0, "12 files are what the generator writes.\n")


def test_check_shows_what_a_changed_spec_would_change(spec: Path, generate: Generate, snapshot: Snapshot) -> None:
    generate()
    before = snapshot()
    spec.write_text(
        spec.read_text().replace("[plain, weighted, routed]", "[plain, routed]").replace("[4096, any]", "[6144, any]")
    )
    result = generate("--check")
    assert result.exit_code == 1
    assert f"--- out/{WEIGHTED}\n+++ /dev/null\n" in result.stdout
    assert "--- out/variants.cpp\n+++ out/variants.cpp (generated)\n" in result.stdout
    assert (
        '\n+    cuda<Configuration<DType::kFloat16, 6144, 8, 8, Epilogue::kPlain>>("sum_reduce_cuda_f16_h6144_k8_v8"),'
        in (result.stdout)
    )
    assert result.stderr.endswith(f"To mend it: {COMMAND}\n")
    assert snapshot() == before
    assert generate().exit_code == 0
    assert generate("--check").exit_code == 0


def test_check_of_an_empty_place(out: Path, generate: Generate) -> None:
    result = generate("--check")
    assert result.exit_code == 1
    assert "--- /dev/null\n+++ out/manifest.json (generated)\n" in result.stdout
    assert not out.exists()


def test_check_of_a_hand_edited_file_says_how_to_overwrite_it(out: Path, generate: Generate) -> None:
    generate()
    edit(out / "variants.cpp")
    result = generate("--check")
    assert result.exit_code == 1
    assert "--- out/variants.cpp\n" in result.stdout
    assert result.stderr.endswith(f"To mend it: {COMMAND} --force\n")


def test_check_of_a_foreign_file(out: Path, generate: Generate) -> None:
    generate()
    (out / "notes.txt").write_text("mine")
    result = generate("--check")
    assert result.exit_code == 1
    assert "out/notes.txt was not written by the generator: move it elsewhere\n" in result.stderr


def test_an_unreadable_file_is_named(out: Path, generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    generate()

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # as root one may read anything
    monkeypatch.setattr("generator.located_yaml._read_text", lambda path: path.read_text())
    for options in ((), ("--check",)):
        result = generate(*options)
        assert result.exit_code == 2
        assert result.stderr.endswith(": Permission denied\n")


def test_an_interrupt_leaves_no_temporary_file(out: Path, generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    generate()
    assert list(out.iterdir()) == []
