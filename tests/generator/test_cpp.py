"""The generated table is C++ that a compiler takes, with and without CUDA, with and without launch rules."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.cli import ROOT

Generate = Callable[..., Any]

COMPILER = shutil.which(os.environ.get("CXX", "c++"))

TUNING = """\
edition: 1
architecture: 80
ladders:
- {behind: ordinary, dtype: float16, epilogue: weighted, topk: any, l2_mib: 40,
   measured: {gpu: A100, date: "2026-01-01", driver: "1", cuda: "1", torch: "1"}, steps: [
    {outputs: any, vector_width: 8, threads: 128, prefetch_kib: 0}]}
"""


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("cuda", [[], ["-DMOE_CUTE_WITH_CUDA"]], ids=["without CUDA", "with CUDA"])
@pytest.mark.parametrize("tuned", [False, True], ids=["heuristic", "tuned"])
def test_the_table_compiles(cuda: list[str], tuned: bool, spec: Path, out: Path, generate: Generate) -> None:
    if tuned:
        (spec.parent / "tuning").mkdir()
        (spec.parent / "tuning" / "sm80.yaml").write_text(TUNING)
    assert generate().exit_code == 0
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *cuda]
    command = [str(COMPILER), *flags, "-I", str(ROOT / "csrc"), str(out / "variants.cpp")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
