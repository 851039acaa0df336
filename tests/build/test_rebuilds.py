"""What a change rebuilds: asked of ninja, without compiling, in a copy of the last build."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from build_support import toolchain
from build_support.build_ext import BUILD_FOLDER, write_build_script
from build_support.plan import make_plan

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / BUILD_FOLDER).is_dir(), reason=f"nothing was built here: no {BUILD_FOLDER}")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: sources and objects, with their times."""
    for folder in ("csrc", "generated", BUILD_FOLDER):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rebuilt() -> set[str]:
    """Sources that would be compiled, and "link", of the plan for this moment's environment."""
    script, _ = write_build_script(make_plan(Path()))
    command = [str(toolchain.ninja_program()), "-n", "-v", "-f", str(script)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    compiled = set(re.findall(r" -c \S+?/(\S+) -o ", output))
    return compiled | ({"link"} if " -shared " in output else set())


def has_cuda() -> bool:
    return bool(make_plan(Path()).architectures)


def test_nothing_after_nothing(build: Path) -> None:
    assert rebuilt() == set()


def test_one_dtypes_file_rebuilds_one_object(build: Path) -> None:
    (build / "generated" / "sum_reduce_cpu_f16.cpp").touch()
    assert rebuilt() == {"sum_reduce_cpu_f16.cpp", "link"}


def test_one_dtypes_cuda_file_rebuilds_one_object(build: Path) -> None:
    if not has_cuda():
        pytest.skip("there is no CUDA compiler here")
    (build / "generated" / "sum_reduce_cuda_f64.cu").touch()
    assert rebuilt() == {"sum_reduce_cuda_f64.cu", "link"}


def test_a_header_rebuilds_what_includes_it(build: Path) -> None:
    (build / "csrc" / "slots.hpp").touch()
    kernels = {path.name for path in (build / "generated").glob("sum_reduce_*" if has_cuda() else "*_cpu_*")}
    assert rebuilt() == {*kernels, "link"}


def test_other_architectures_rebuild_the_cuda_part(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_cuda():
        pytest.skip("there is no CUDA compiler here")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    assert rebuilt() == {*(path.name for path in (build / "generated").glob("*.cu")), "build_info.cpp", "link"}


def test_another_compiler_rebuilds_everything(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{toolchain.host_compiler(toolchain.cxx_compiler())} -DNDEBUG")
    cpp = {path.name for folder in ("csrc", "generated") for path in (build / folder).glob("*.cpp")}
    assert rebuilt() == {*cpp, "link"}
