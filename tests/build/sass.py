"""The machine code of the compiled CUDA kernels, as cuobjdump and nvdisasm print it: no GPU is needed."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from build_support.build_ext import BUILD_FOLDER
from build_support.ninja_file import object_of
from build_support.toolchain import cuda_package_roots

ROOT = Path(__file__).parents[2]
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), *(str(root / "bin") for root in cuda_package_roots())])

SUM_REDUCE = re.compile(
    r"sum_reduce_kernelINS_13ConfigurationILNS_5DTypeE(\d)ELi(\d+)ELi(\d+)ELi(\d+)ELNS_8EpilogueE(\d)E"
    r"LNS_9AlignmentE(\d)EEE"
)
GRADIENT = re.compile(r"gradient_kernelINS_\d+(\w+?)ILNS_5DTypeE(\d)EEE")


class Configuration(NamedTuple):
    """The template arguments of csrc/configuration.hpp, as numbers."""

    dtype: int
    hidden: int
    topk: int
    vector_width: int
    epilogue: int
    unaligned: int


class Gradient(NamedTuple):
    """The body of a gradient's kernel, as in csrc/gradient.hpp, and its dtype as a number."""

    body: str
    dtype: int


@dataclass
class Kernel:
    opcodes: list[str]  # in order, for example "LDG.E.128"
    stack_bytes: int = 0
    local_bytes: int = 0


def object_file(source: str) -> Path:
    return ROOT / object_of(Path(source), BUILD_FOLDER)


def why_unreadable() -> str | None:
    """None where the code of the last build can be read."""
    if not list((ROOT / BUILD_FOLDER).glob("*.cu.o")):
        return f"nothing was compiled for CUDA: no {BUILD_FOLDER}/*.cu.o"
    missing = [tool for tool in ("cuobjdump", "nvdisasm") if not shutil.which(tool, path=SEARCH_PATH)]
    return f"not found: {', '.join(missing)} (PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm)" if missing else None


@cache
def architectures_of(source: str) -> tuple[int, ...]:
    return tuple(sorted(int(number) for number in re.findall(r"\.sm_(\d+)\.cubin", _cuobjdump("-lelf", source))))


@cache
def kernels_of(source: str, architecture: int) -> dict[Configuration | Gradient, Kernel]:
    kernels: dict[Configuration | Gradient, Kernel] = {}
    for name, body in _functions(_cuobjdump(f"-sass -arch sm_{architecture}", source)):
        kernels[name] = Kernel(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", body, re.MULTILINE))
    for name, body in _functions(_cuobjdump(f"-res-usage -arch sm_{architecture}", source)):
        used = {key: int(number) for key, number in re.findall(r"(STACK|LOCAL):(\d+)", body)}
        kernels[name].stack_bytes, kernels[name].local_bytes = used["STACK"], used["LOCAL"]
    return kernels


def _functions(listing: str) -> list[tuple[Configuration | Gradient, str]]:
    parts = re.split(r"^\s*Function\s*:?\s*", listing, flags=re.MULTILINE)[1:]
    named = [(_named(part.split("\n", 1)[0]), part) for part in parts]
    return [(name, part) for name, part in named if name]


def _named(mangled: str) -> Configuration | Gradient | None:
    if found := SUM_REDUCE.search(mangled):
        return Configuration(*map(int, found.groups()))
    if found := GRADIENT.search(mangled):
        return Gradient(found[1], int(found[2]))
    return None


def _cuobjdump(options: str, source: str) -> str:
    tool = shutil.which("cuobjdump", path=SEARCH_PATH)
    assert tool is not None
    command = [tool, *options.split(), str(object_file(source))]
    return subprocess.run(
        command, env={**os.environ, "PATH": SEARCH_PATH}, check=True, capture_output=True, text=True
    ).stdout
