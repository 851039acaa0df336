"""`python -m generator` as a person meets it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.cli import ROOT

Generate = Callable[..., Any]


def run(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "generator", *options], cwd=tree, capture_output=True, text=True)


def test_what_is_committed_is_what_the_generator_writes() -> None:
    result = run(ROOT, "--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_schemas_are_generated_and_checked_too(tmp_path: Path) -> None:
    for part in ("generator", "templates", "specs", "generated"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    schemas = [tmp_path / "specs" / "schema.json", tmp_path / "specs" / "tuning" / "schema.json"]
    before = [schema.read_bytes() for schema in schemas]
    for schema in schemas:
        schema.unlink()
    check = run(tmp_path, "--check")
    assert check.returncode == 1
    assert "+++ specs/tuning/schema.json (generated)\n" in check.stdout
    assert check.stderr.endswith("To mend it: python -m generator\n")
    assert run(tmp_path).returncode == 0
    assert [schema.read_bytes() for schema in schemas] == before


def test_another_spec_leaves_the_schemas_alone(spec: Path, generate: Generate) -> None:
    assert generate().exit_code == 0
    assert sorted(path.name for path in spec.parent.iterdir()) == ["out", "spec.yaml"]


def test_list_names_every_variant_and_what_it_takes(out: Path, generate: Generate) -> None:
    result = generate("--list")
    takes = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert len(takes) == 65
    assert takes["sum_reduce_cuda_f16_hany_kany_v4_weighted"] == (
        "hidden % 4 == 0; aligned to 8 bytes; topk_weights, shared_output"
    )
    assert not out.exists()


def test_list_as_json_is_the_manifests_list(out: Path, generate: Generate) -> None:
    listed = json.loads(generate("--list", "--json").stdout)
    generate()
    assert listed == json.loads((out / "manifest.json").read_text())["variants"]


@pytest.mark.parametrize(
    "options",
    [["--json"], ["--check", "--list"], ["--check", "--force"], ["--list", "--force"], ["--colour"], ["sum_reduce"]],
    ids=" ".join,
)
def test_wrong_usage(options: list[str], out: Path, generate: Generate) -> None:
    assert generate(*options).exit_code == 2
    assert not out.exists()


def test_out_that_is_a_file(out: Path, generate: Generate) -> None:
    out.write_text("mine")
    assert generate().exit_code == 2
    assert out.read_text() == "mine"


def test_check_of_a_bad_spec(spec: Path, generate: Generate) -> None:
    spec.write_text(spec.read_text().replace("edition: 1", "edition: 9"))
    assert generate("--check").exit_code == 2


def test_a_place_that_cannot_be_written(out: Path, generate: Generate) -> None:
    (out.parent / "file").write_text("mine")
    result = generate("--out", "file/below")
    assert result.exit_code == 2
    assert "file/below: Not a directory" in result.stderr
