"""The gradients' kernels of each instruction set under AddressSanitizer and UndefinedBehaviorSanitizer."""

import subprocess
from pathlib import Path

import pytest

from build_support import toolchain
from build_support.plan import CXX_FLAGS

ROOT = Path(__file__).parents[2]
SANITIZED = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("sanitized") / "gradients"
    headers = [toolchain.cutlass_include_folder(), *toolchain.cuda_include_folders(toolchain.find_cuda_compiler())]
    compiler = [*toolchain.cxx_compiler(), *CXX_FLAGS, *SANITIZED, *(f"-isystem{header}" for header in headers)]
    source = Path(__file__).with_name("sanitized_gradients.cpp")
    run = subprocess.run([*compiler, str(source), "-o", str(program)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return program


def test_every_access_is_within_bounds_and_the_instruction_sets_agree(program: Path) -> None:
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith(" calls\n")


def test_an_element_too_few_would_be_caught(program: Path) -> None:
    run = subprocess.run([program, "--short"], capture_output=True, text=True)
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
