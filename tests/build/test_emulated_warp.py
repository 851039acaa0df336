"""The CUDA kernels' own code, on the host: what they guess before the kernel before has ended, and find out after."""

import subprocess
from pathlib import Path

import pytest

from tests.build.host_program import build

pytestmark = pytest.mark.xdist_group("emulated")  # one worker compiles, for both tests

# AddressSanitizer: kernels that shift rows into place read beside them, but not past the input's end.
FLAGS = ["-O1", "-pthread", "-fsanitize=address"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("emulated"), [Path(__file__).with_name("emulated_warp.cpp")], FLAGS)


def test_every_guess_is_found_out(program: Path) -> None:
    run = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout
    assert run.stdout.endswith(" 0 of them wrong\n")


def test_operands_that_come_too_late_would_be_caught(program: Path) -> None:
    run = subprocess.run([program, "--late"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stderr
