"""A small spec in a folder of its own, and a way to run the generator on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from generator.cli import app

SPEC = """\
edition: 1
operator: sum_reduce
backends:
  cuda: {architectures: [80, 90], ptx: 90}
  cpu: {instruction_sets: [baseline, avx2]}
dtypes:
  float16: {vector_widths: [1, 2, 4, 8]}
  float64: {vector_widths: [1, 2]}
hidden_sizes: [4096, any]
topk: [8, any]
threads: [128, 256]
epilogues: [plain, weighted, routed]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def generate(spec: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the generator on `spec` into `out`, from the folder of both."""
    monkeypatch.chdir(spec.parent)
    return lambda *options: CliRunner().invoke(app, ["--spec", spec.name, "--out", out.name, *options])


@pytest.fixture
def snapshot(out: Path) -> Callable[[], dict[str, bytes]]:
    """Reads all that stands in `out`."""
    return lambda: {path.name: path.read_bytes() for path in out.iterdir()}
