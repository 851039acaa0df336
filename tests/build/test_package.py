"""What comes out of the build: a wheel for every Python and torch, and a CPU part that needs no CUDA."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import moe_cute
from build_support.build_ext import BUILD_FOLDER

ROOT = Path(__file__).parents[2]

# setup.py on a machine where no CUDA compiler is found.
WITHOUT_CUDA = """
import runpy, sys
sys.path.insert(0, "")
from build_support import toolchain
toolchain.find_cuda_compiler = lambda: None
sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""

USES_THE_CPU = """
import torch, moe_cute
built = {row["backend"] for row in moe_cute.variants() if row["built"]}
print(built, moe_cute.sum_reduce(torch.ones(2, 3, 5), routed_scaling_factor=0.5).sum().item())
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of the repository that a build reads."""
    unwanted = shutil.ignore_patterns("_C.abi3.so", "__pycache__")
    for folder in ("build_support", "csrc", "generated", "moe_cute"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unwanted)
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy2(ROOT / file, tmp_path / file)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    """Python's output in `folder`, which comes first on its path."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def libraries_needed_by(library: Path) -> str:
    dynamic = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in dynamic
    return dynamic


def test_it_loads_where_there_is_no_cuda_library_and_in_any_place() -> None:
    extension = Path(moe_cute.__file__).with_name("_C.abi3.so")
    assert not re.search(
        r"libcuda|libtorch_cuda|libtorch_python|libpython|RPATH|RUNPATH", libraries_needed_by(extension)
    )


def test_without_a_cuda_compiler_the_cpu_part_is_built_and_it_says_so(checkout: Path) -> None:
    said = run(checkout, "-c", WITHOUT_CUDA)
    assert "built the CPU backend only, no CUDA: there is no nvcc" in said
    assert run(checkout, "-c", USES_THE_CPU) == "{'cpu'} 15.0\n"


@pytest.mark.skipif(not (ROOT / BUILD_FOLDER).is_dir(), reason=f"nothing was built here: no {BUILD_FOLDER}")
def test_one_wheel_for_every_python(checkout: Path) -> None:
    shutil.copytree(ROOT / BUILD_FOLDER, checkout / BUILD_FOLDER)
    run(checkout, "setup.py", "--quiet", "bdist_wheel")
    (wheel,) = (checkout / "dist").iterdir()
    assert re.fullmatch(rf"moe_cute-{re.escape(moe_cute.__version__)}-cp310-abi3-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    assert "moe_cute/_C.abi3.so" in names
    assert "moe_cute/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"moe_cute"}
