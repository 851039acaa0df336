"""What was built, what this machine has, and what keeps a backend from working here."""

import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import moe_cute

TORCH = "pip install 'torch>=2.10'"


class Problem(NamedTuple):
    what: str
    mend: str | None  # a command; None where there is nothing to mend


@dataclass(frozen=True)
class Gpu:
    name: str
    architecture: int  # 90 for sm_90
    code: str | None  # "machine code" or "PTX" that this build has for it


@dataclass(frozen=True)
class Backend:
    """Whether a sum_reduce of a few numbers came out right; if not, what is wrong, and the command that mends it."""

    name: str
    works: bool
    what: str | None = None
    mend: str | None = None


@dataclass(frozen=True)
class Torch:
    version: str | None  # None where it does not load
    cuda: str | None  # of its build


@dataclass(frozen=True)
class Build:
    """What the extension was compiled for; the architectures as text, "80 90 100 120 120+PTX", empty without CUDA."""

    cuda_architectures: str
    cuda_runtime: str
    cpu_variants: int
    cuda_variants: int

    def __str__(self) -> str:
        cpu = f"CPU ({self.cpu_variants} variants)"
        if not self.cuda_architectures:
            return f"{cpu}, no CUDA"
        targets = " ".join(f"sm_{architecture}" for architecture in self.cuda_architectures.split())
        return f"{cpu} and CUDA {self.cuda_runtime} ({self.cuda_variants} variants, for {targets})"


@dataclass(frozen=True)
class Examination:
    moe_cute: str
    python: str
    torch: Torch
    build: Build | None  # None where the extension does not load
    instruction_set: str | None  # the best that this processor has of those that the spec knows
    driver: str | None
    driver_cuda: str | None  # the newest CUDA that the driver supports; known only to a build with CUDA
    gpus: tuple[Gpu, ...]
    backends: tuple[Backend, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def facts(self) -> list[tuple[str, str]]:
        """Name and value of all but the backends, for a person."""
        torch = f"{self.torch.version} ({f'CUDA {self.torch.cuda}' if self.torch.cuda else 'no CUDA'})"
        driver = f"{self.driver}{f' (up to CUDA {self.driver_cuda})' if self.driver_cuda else ''}"
        return [
            ("moe_cute", self.moe_cute),
            ("Python", self.python),
            ("torch", torch if self.torch.version else "does not load"),
            ("built for", str(self.build) if self.build else "unknown: moe_cute does not load"),
            ("processor", self.instruction_set or "unknown"),
            ("NVIDIA driver", driver if self.driver else "not found"),
            *((f"GPU {index}", _gpu_words(gpu)) for index, gpu in enumerate(self.gpus)),
        ]


def examine() -> Examination:
    torch_build = _torch_build()
    driver, found = _gpus(torch_build)
    failure = why_not_loaded()
    if failure is not None:
        gpus = tuple(Gpu(name, architecture, None) for name, architecture in found)
        backends = tuple(Backend(name, False, failure.what, failure.mend) for name in ("cpu", "cuda"))
        return Examination(
            moe_cute.__version__, platform.python_version(), torch_build, None, None, driver, None, gpus, backends
        )

    from moe_cute._extension import _C

    info = _C.build_info()
    built = [row["backend"] for row in _C.variants() if row["built"]]
    build = Build(info["cuda_architectures"], info["cuda_runtime"], built.count("cpu"), built.count("cuda"))
    gpus = tuple(
        Gpu(name, architecture, code_for(architecture, build.cuda_architectures)) for name, architecture in found
    )
    driver_cuda = info["cuda_driver"] or None
    backends = (
        _backend("cpu", None, ["cpu"]),
        _backend(
            "cuda",
            _cuda_problem(torch_build, build, driver_cuda, gpus),
            [f"cuda:{index}" for index in range(len(gpus))],
        ),
    )
    return Examination(
        moe_cute=moe_cute.__version__,
        python=platform.python_version(),
        torch=torch_build,
        build=build,
        instruction_set=info["instruction_set"],
        driver=driver,
        driver_cuda=driver_cuda,
        gpus=gpus,
        backends=backends,
    )


def why_not_loaded() -> Problem | None:
    """Why the package could not be imported; None if it could."""
    failure = moe_cute._failure
    if failure is None:
        return None
    try:
        import torch
    except (ImportError, OSError) as error:
        return Problem(f"torch cannot be imported: {error}", TORCH)
    if find_spec("moe_cute._C") is None:
        here, installed = Path(moe_cute.__file__).parent, _installed()
        if installed is not None:
            return Problem(
                f"this is the moe_cute in {here}, whose extension has not been built; another is in {installed}",
                "make build, or work in another folder",
            )
        return Problem("the extension, moe_cute/_C.abi3.so, has not been built", "make build")
    if isinstance(failure, ImportError):
        too_old = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10)
        return Problem(
            f"the extension does not load: {failure.__cause__ or failure}", TORCH if too_old else "make build"
        )
    return Problem(f"the extension is not of this version: {failure}", "make build")


def _installed() -> Path | None:
    """The folder of another moe_cute, which this one hides: a source tree hides what pip installed."""
    here = Path(moe_cute.__file__).parent
    others = [place for place in sys.path if Path(place).resolve() != here.parent.resolve()]
    spec = PathFinder.find_spec("moe_cute", others)
    return Path(spec.origin).parent if spec and spec.origin else None


def code_for(architecture: int, compiled: str) -> str | None:
    """What a build for `compiled` ("80 90a 120+PTX") has for a GPU: machine code, PTX (for its driver), or None."""
    targets = re.findall(r"(\d+)([af]?)(\+PTX)?", compiled)
    for number, suffix, ptx in targets:
        # Machine code runs within its major version from its minor on; with an `a`, on that GPU alone.
        same = int(number) == architecture
        if not ptx and (same or (suffix != "a" and _runs_within_major(int(number), architecture))):
            return "machine code"
    if any(ptx and not suffix and int(number) <= architecture for number, suffix, ptx in targets):
        return "PTX"
    return None


def _runs_within_major(compiled: int, architecture: int) -> bool:
    return compiled // 10 == architecture // 10 and compiled <= architecture


def _gpu_words(gpu: Gpu) -> str:
    return f"{gpu.name}, sm_{gpu.architecture}: {gpu.code or 'neither machine code nor PTX'} in this build"


def _torch_build() -> Torch:
    try:
        import torch
    except (ImportError, OSError):
        return Torch(None, None)
    return Torch(torch.__version__, torch.version.cuda)


def _gpus(torch_build: Torch) -> tuple[str | None, list[tuple[str, int]]]:
    """The driver's version, and each GPU's name and architecture: of those that torch may use, else of all."""
    driver, gpus = _nvidia_smi()
    if torch_build.cuda:
        import torch

        if torch.cuda.is_available():
            devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
            gpus = [(device.name, 10 * device.major + device.minor) for device in devices]
    return driver, gpus


def _nvidia_smi() -> tuple[str | None, list[tuple[str, int]]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, []
    command = [program, "--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = re.findall(r"^([\d.]+), (\d+)\.(\d), (.+)$", answer.stdout, re.MULTILINE) if answer.returncode == 0 else []
    return (lines[0][0] if lines else None), [(name, int(major + minor)) for _, major, minor, name in lines]


def _cuda_problem(torch_build: Torch, build: Build, driver_cuda: str | None, gpus: tuple[Gpu, ...]) -> Problem | None:
    """The first thing that the CUDA backend lacks; None where a trial can tell more."""
    if not gpus:
        return Problem("there is no NVIDIA GPU here, or its driver does not answer", None)
    if not build.cuda_architectures:
        return Problem(
            "this build has no CUDA part: there was no nvcc",
            "make build (installs an nvcc where CUDA_HOME, PATH and /usr/local/cuda have none)",
        )
    if torch_build.cuda is None:
        return Problem(f"torch {torch_build.version} has no CUDA", "pip install --force-reinstall torch")
    if driver_cuda and _version(driver_cuda) < (_version(build.cuda_runtime)[0],):
        return Problem(
            f"the driver supports CUDA {driver_cuda}, the build needs {build.cuda_runtime}", "update the NVIDIA driver"
        )
    bare = sorted({gpu.architecture for gpu in gpus if gpu.code is None})
    if bare:
        wanted = ";".join(f"{architecture // 10}.{architecture % 10}" for architecture in bare)
        return Problem(
            f"the build is for {build.cuda_architectures}, there is no code for "
            + ", ".join(f"sm_{architecture}" for architecture in bare),
            f"TORCH_CUDA_ARCH_LIST='{wanted}' make build",
        )
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _backend(name: str, problem: Problem | None, devices: list[str]) -> Backend:
    problem = problem or next(filter(None, map(_trial, devices)), None)
    return Backend(name, problem is None, *(problem or ()))


def _trial(device: str) -> Problem | None:
    """A tiny sum_reduce, looked at: loading proves less."""
    import torch

    backend = torch.device(device).type
    dtypes = [row["dtype"] for row in moe_cute.variants() if row["backend"] == backend and row["built"]]
    if not dtypes:
        return Problem(f"this build has no variant for {backend}", "make build")
    try:
        input = torch.ones(1, 3, 8, dtype=getattr(torch, dtypes[0]), device=device)
        result = moe_cute.sum_reduce(input).tolist()
    except (RuntimeError, ValueError) as error:
        return Problem(f"sum_reduce fails on {device}: {error}", None)
    if result != [[3.0] * 8]:
        return Problem(f"sum_reduce on {device} gave {result} for eight sums of 1 + 1 + 1", None)
    return None
