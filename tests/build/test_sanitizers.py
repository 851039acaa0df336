"""The CPU backend's bodies, which are the CUDA kernels' too, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import subprocess
import sys
from pathlib import Path

import pytest

from build_support.manifest import read_manifest
from tests.build.host_program import ROOT, build, checked

pytestmark = pytest.mark.xdist_group("sanitizers")  # one worker compiles, for all tests here

SANITIZED = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# Each loop of the body once, with topk constant and not: all of the spec's would compile for minutes under sanitizers.
TOPK = [1, "any"]


@pytest.fixture(scope="module")
def sum_reduce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("pydantic", reason="the generator needs pydantic")
    folder = tmp_path_factory.mktemp("sanitized")
    spec = yaml.safe_load((ROOT / "specs" / "sum_reduce.yaml").read_text())
    (folder / "spec.yaml").write_text(yaml.safe_dump({**spec, "topk": TOPK, "hidden_sizes": ["any"]}))
    checked([sys.executable, "-m", "generator", "--spec", f"{folder}/spec.yaml", "--out", f"{folder}/generated"])
    manifest = read_manifest(folder / "generated")
    sources = [*manifest.cpu_sources, manifest.table, Path(__file__).with_name("sanitized_cpu.cpp")]
    return build(folder, sources, SANITIZED)


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compares the instruction sets as well."""
    return build(tmp_path_factory.mktemp("sanitized"), [Path(__file__).with_name("sanitized_gradients.cpp")], SANITIZED)


both_programs = pytest.mark.parametrize("program", ["sum_reduce", "gradients"])


@both_programs
def test_every_access_is_within_bounds_and_defined(program: str, request: pytest.FixtureRequest) -> None:
    run = subprocess.run([request.getfixturevalue(program)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith(" calls\n")


@both_programs
def test_an_element_too_few_would_be_caught(program: str, request: pytest.FixtureRequest) -> None:
    run = subprocess.run([request.getfixturevalue(program), "--short"], capture_output=True, text=True)
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
