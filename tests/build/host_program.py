"""Compiles a test program out of the project's C++ and its own."""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_support import toolchain
from build_support.plan import CXX_FLAGS

ROOT = Path(__file__).parents[2]


def build(folder: Path, sources: Sequence[Path], flags: Sequence[str]) -> Path:
    headers = [toolchain.cutlass_include_folder(), *toolchain.cuda_include_folders(toolchain.find_cuda_compiler())]
    compiler = [*toolchain.cxx_compiler(), *CXX_FLAGS, *flags, *(f"-isystem{header}" for header in headers)]
    objects = [str(folder / f"{source.name}.o") for source in sources]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        commands = [
            [*compiler, "-c", str(source), "-o", target] for source, target in zip(sources, objects, strict=True)
        ]
        list(pool.map(checked, commands))
    checked([*compiler, *objects, "-o", f"{folder}/program"])
    return folder / "program"


def checked(command: Sequence[str]) -> None:
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
