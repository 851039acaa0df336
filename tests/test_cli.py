"""python -m moe_cute doctor | list | explain, for people and, with --json, for programs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import moe_cute
from moe_cute import _doctor
from moe_cute._cli import app
from moe_cute._extension import _C
from tests.variants import VARIANTS

ROOT = Path(moe_cute.__file__).parents[1]


def run(*arguments: str, expected: int = 0) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "moe_cute", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == expected, process.stdout + process.stderr
    return process.stdout if expected == 0 else process.stdout + process.stderr


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_doctor() -> None:
    text = run("doctor")
    for fact in (moe_cute.__version__, torch.__version__, _C.build_info()["instruction_set"]):
        assert fact in text
    told = json.dumps(run_json("doctor"))
    for fact in (moe_cute.__version__, torch.__version__, _C.build_info()["cuda_architectures"]):
        assert fact in told


def test_list() -> None:
    text = run("list")
    assert all(variant.name in text for variant in VARIANTS)
    assert run_json("list") == moe_cute.variants()


def test_explain() -> None:
    told = moe_cute.explain((64, 8, 2048), dtype=torch.float16)
    assert str(told.variant) in run("explain", "64", "8", "2048", "--dtype", "float16")
    assert run_json("explain", "64", "8", "2048", "--dtype", "float16")["variant"] == told.variant


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["explain", "64", "8", "2048", "--dtype", "int8"], "int8"),
        (["explain", "64", "8", "2048", "--behind", "nothing"], "ordinary"),
        (["explain", "64", "8"], "HIDDEN"),
        (["explain", "64", "eight", "2048"], "TOPK"),
        (["explain", "99999999999999999999", "8", "2048"], "TOKENS"),
        (["explain", "64", "8", "2048", "--device", "cuda", "--architecture", "99999999999"], "--architecture"),
        (["explain", "64", "8", "2048", "--architecture", "90"], "--architecture: goes with --device cuda"),
        (["explain", "64", "8", "2048", "--multiprocessors", "78"], "--multiprocessors: goes with --architecture"),
        (["explain", "64", "8", "2048", "--l2-mib", "60"], "--l2-mib: goes with --architecture"),
        (["diagnose"], "diagnose"),
    ],
)
def test_wrong_arguments(arguments: list[str], told: str) -> None:
    assert told in run(*arguments, expected=2)


def test_explain_for_a_gpu_that_the_build_has_no_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["explain", "64", "8", "2048", "--device", "cuda", "--architecture", "90"]
    monkeypatch.setattr(_doctor, "code_for", lambda architecture, compiled: None)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "sm_90" in result.output
