"""For which GPUs to compile: TORCH_CUDA_ARCH_LIST, else this machine's own, else the spec's list."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from build_support.errors import BuildError
from build_support.manifest import Manifest

OLDEST = 80  # the first with bfloat16 arithmetic

# The first with features of one GPU alone, `9.0a`, and with those of a family, `10.0f`, as nvcc 13 knows them.
FIRST_WITH_SUFFIX = {"": 0, "a": 90, "f": 100}

FIRST_WITH_DEPENDENT_LAUNCH = 90  # programmatic: a kernel starts before the one before it has ended

# What csrc/ tells apart: it uses nothing newer. Machine code for several GPUs from one of these costs the compiler's
# longest phase once, not once for each: 30 % off the spec's list.
VIRTUAL = (OLDEST, FIRST_WITH_DEPENDENT_LAUNCH)

# As torch's own builds spell them.
FAMILIES = {
    "ampere": "8.0;8.6+PTX",
    "ada": "8.9+PTX",
    "hopper": "9.0+PTX",
    "blackwell": "10.0;10.3;12.0;12.1+PTX",
}


@dataclass(frozen=True)
class Architecture:
    """One target of nvcc: machine code, or PTX from which the driver of a newer GPU makes its own."""

    number: int  # 90 for sm_90
    suffix: str = ""  # "a" or "f": features of that GPU or its family alone
    ptx: bool = False

    @property
    def gencode(self) -> str:
        name = f"{self.number}{self.suffix}"
        if self.ptx or self.suffix:
            return f"-gencode=arch=compute_{name},code={'compute' if self.ptx else 'sm'}_{name}"
        virtual = max(number for number in VIRTUAL if number <= self.number)
        return f"-gencode=arch=compute_{virtual},code=sm_{name}"

    def __str__(self) -> str:
        return f"{self.number}{self.suffix}{'+PTX' if self.ptx else ''}"


def choose_architectures(manifest: Manifest, supported: Collection[int]) -> tuple[Architecture, ...]:
    """`supported`: what nvcc can compile for. Raises BuildError where TORCH_CUDA_ARCH_LIST asks for anything else."""
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if asked and asked.lower() != "all":
        return _with_newer_ptx(parse_architectures(asked, supported))
    own = [] if asked else [number for number in _gpus_here() if number in supported and number >= OLDEST]
    if own:
        return tuple(Architecture(number) for number in sorted(set(own)))
    chosen = [Architecture(number) for number in manifest.architectures if number in supported]
    if manifest.ptx in supported and manifest.ptx is not None:
        chosen.append(Architecture(manifest.ptx, ptx=True))
    if not chosen:
        raise BuildError(f"this nvcc compiles for none of the spec's architectures: {_words(manifest.architectures)}")
    return _with_newer_ptx(tuple(chosen))


def _with_newer_ptx(chosen: tuple[Architecture, ...]) -> tuple[Architecture, ...]:
    """Beside an old PTX, that of the first GPU with dependent launches, which a driver prefers wherever it can use it.

    The host launches kernels on such GPUs before their predecessor has ended, and code made from an older PTX would not
    wait for it.
    """
    newer = Architecture(FIRST_WITH_DEPENDENT_LAUNCH, ptx=True)
    has_old = any(each.ptx and each.number < FIRST_WITH_DEPENDENT_LAUNCH for each in chosen)
    return (*chosen, newer) if has_old and newer not in chosen else chosen


def parse_architectures(text: str, supported: Collection[int]) -> tuple[Architecture, ...]:
    """What torch's extensions understand: `8.0;9.0+PTX`, blanks or commas between, `9.0a`, `Hopper`; also `All`."""
    for family, members in FAMILIES.items():
        text = re.sub(rf"\b{family}\b", members, text, flags=re.IGNORECASE)
    allowed = [number for number in sorted(supported) if number >= OLDEST]
    chosen: dict[Architecture, None] = {}  # a set that keeps its order
    for item in re.split(r"[;,\s]+", text.strip(" ;,")):
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", item)
        number, suffix = (int(found[1] + found[2]), found[3]) if found else (0, "")
        if not found or number not in allowed or number < FIRST_WITH_SUFFIX[suffix]:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: {item!r}; allowed with this nvcc: "
                f"{_words(f'{number // 10}.{number % 10}' for number in allowed)} "
                "(each also with +PTX; with a from 9.0 on, with f from 10.0 on), "
                f"{_words(family.capitalize() for family in FAMILIES)}, All"
            )
        chosen[Architecture(number, suffix)] = None
        if found[4]:
            chosen[Architecture(number, suffix, ptx=True)] = None
    return tuple(chosen)


def _gpus_here() -> list[int]:
    """Asked of the driver's tool, which also answers beside a torch that has no CUDA."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    capabilities = re.findall(r"^(\d+)\.(\d)\s*$", answer.stdout, re.MULTILINE) if answer.returncode == 0 else []
    return [int(major + minor) for major, minor in capabilities]


def _words(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
