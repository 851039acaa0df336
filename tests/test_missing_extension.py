"""A moe_cute whose extension was not built: the import says so, and `python -m moe_cute doctor` still runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import moe_cute

WHAT = "moe_cute's compiled extension does not load"


@pytest.fixture(scope="module")
def without_extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's Python alone, and an engine that imports it."""
    folder = tmp_path_factory.mktemp("without_extension")
    source = Path(moe_cute.__file__).parent
    shutil.copytree(source, folder / "moe_cute", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name, text in {
        "engine/__init__.py": "from moe_cute import sum_reduce",
        "engine/__main__.py": "",
        "late/__init__.py": "import moe_cute\nmoe_cute.sum_reduce",
        "late/__main__.py": "",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(folder: Path, *arguments: str, also: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`also`: further folders to import from."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *also])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("arguments", [("-c", "import engine"), ("-m", "engine"), ("-m", "late")], ids=" ".join)
def test_the_import_says_what_is_missing(without_extension: Path, arguments: tuple[str, ...]) -> None:
    done = run(without_extension, *arguments)
    assert done.returncode == 1
    assert f"ImportError: {WHAT}" in done.stderr


def test_doctor_runs_all_the_same(without_extension: Path) -> None:
    done = run(without_extension, "-m", "moe_cute", "doctor")
    assert done.returncode == 1
    assert "extension" in done.stdout and "has not been built" in " ".join(done.stdout.split())
    asked = run(without_extension, "-m", "moe_cute", "explain", "4", "8", "2048")
    assert asked.returncode == 1
    assert "Traceback" not in asked.stderr


def test_doctor_tells_of_the_package_that_a_source_tree_hides(without_extension: Path) -> None:
    installed = str(Path(moe_cute.__file__).parents[1])
    done = run(without_extension, "-m", "moe_cute", "doctor", "--json", also=(installed,))
    assert done.returncode == 1
    cpu = json.loads(done.stdout)["backends"][0]
    assert f"another is in {Path(installed) / 'moe_cute'}" in cpu["what"]
    assert cpu["mend"] == "make build, or work in another folder"
