"""What there is to build with: the CUDA toolkit, the CUTLASS headers, torch, the C++ compiler, ninja."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from build_support.errors import BuildError

DEFAULT_TOOLKIT = Path("/usr/local/cuda")
MINIMUM_TORCH = (2, 10)  # the first whose stable ABI has all that csrc/ calls


@dataclass(frozen=True)
class CudaCompiler:
    """An nvcc and the toolkit that it belongs to."""

    nvcc: Path

    @cached_property
    def root(self) -> Path:
        """As nvcc itself says: the nvcc on PATH may be a link or a wrapper script far from its toolkit."""
        settings = _output([self.nvcc, "--dryrun", "-E", "-x", "cu", os.devnull])
        found = re.search(r"^#\$ TOP=(.+)$", settings, re.MULTILINE)
        if not found:
            raise BuildError(f"{self.nvcc} does not say where its toolkit is: `nvcc --dryrun` printed no TOP")
        return Path(found[1]).resolve()

    @cached_property
    def architectures(self) -> frozenset[int]:
        """Those that it can make machine code for; 90 is sm_90."""
        return frozenset(int(number) for number in re.findall(r"sm_(\d+)", _output([self.nvcc, "--list-gpu-code"])))

    @cached_property
    def runtime_library(self) -> Path:
        """Linked statically, so that the extension loads where there is no CUDA library at all."""
        return _first_with("libcudart_static.a", _toolkit_folders(self.root, "lib64", "lib"), f"{self.root} (nvcc's)")


def find_cuda_compiler() -> CudaCompiler | None:
    """CUDA_HOME's nvcc, else the one on PATH, /usr/local/cuda's, or that of the nvidia-cuda-nvcc package."""
    name = "CUDA_HOME" if os.environ.get("CUDA_HOME") else "CUDA_PATH"
    home = os.environ.get(name)
    if home:
        nvcc = Path(home, "bin", "nvcc")
        if not os.access(nvcc, os.X_OK) or nvcc.is_dir():
            raise BuildError(
                f"{name} is {home}, where there is no bin/nvcc that can be run; unset it to look elsewhere"
            )
        return CudaCompiler(nvcc)
    on_path = shutil.which("nvcc")
    candidates = [Path(on_path)] if on_path else []
    candidates += [root / "bin" / "nvcc" for root in (DEFAULT_TOOLKIT, *cuda_package_roots())]
    return next((CudaCompiler(nvcc) for nvcc in candidates if nvcc.is_file()), None)


def cuda_include_folders(compiler: CudaCompiler | None) -> list[Path]:
    """Needed by the CPU backend too: CuTe includes cuda_runtime_api.h and cuda/std."""
    roots = [compiler.root] if compiler else []
    roots += [*cuda_package_roots(), DEFAULT_TOOLKIT, Path("/usr")]
    folders = [folder for root in roots for folder in _toolkit_folders(root, "include")]
    needed = "the nvidia-cuda-runtime and nvidia-cuda-cccl packages"
    runtime = _first_with("cuda_runtime_api.h", folders, needed).parent
    library = _first_with("cuda/std/type_traits", [f for folder in folders for f in (folder / "cccl", folder)], needed)
    # A compiler's own folder, named again, would come too late for its own headers.
    return [folder for folder in dict.fromkeys([runtime, library.parents[2]]) if folder != Path("/usr/include")]


def cutlass_include_folder() -> Path:
    roots = [root / "source" / "include" for root in _package_folders("cutlass_library")]
    return _first_with("cute/tensor.hpp", roots, "the nvidia-cutlass package").parents[1]


def python_include_folder() -> Path:
    folder = Path(sysconfig.get_path("include"))
    return _first_with("Python.h", [folder], "Python's headers (python3-dev, python3-devel)").parent


def torch_folder() -> Path:
    """Found without importing torch, which would take longer than a build that has nothing to do."""
    folders = _package_folders("torch")
    if not folders:
        raise BuildError("torch is not installed in this Python; 2.10 or newer is needed")
    version = metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_TORCH:
        raise BuildError(f"torch is {version}; 2.10 or newer is needed")
    return folders[0]


def cxx_compiler() -> list[str]:
    """CXX, which may hold a launcher and options, else c++ as the platform calls it."""
    command = shlex.split(os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or "")
    if not command or not shutil.which(command[0]):
        raise BuildError(f"no C++ compiler: {' '.join(command) or 'g++ and c++'} not found; install one or set CXX")
    return command


def host_compiler(cxx: list[str]) -> str:
    """The compiler itself, for nvcc, which takes no launcher: of `ccache g++ -pipe`, g++."""
    programs = [word for word in cxx if not word.startswith("-")]
    return programs[-1]


def is_clang(cxx: list[str]) -> bool:
    """Whatever it is called: c++ is Clang on some platforms."""
    return "clang" in _output([*cxx, "--version"])


def ninja_program() -> Path:
    """The ninja package's own, else the one on PATH."""
    import ninja

    program = Path(ninja.BIN_DIR, "ninja")
    on_path = shutil.which("ninja")
    if program.is_file() or not on_path:
        return program
    return Path(on_path)


def _output(command: list[Path | str]) -> str:
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise BuildError(f"{shlex.join(map(str, command))} failed:\n{run.stdout}")
    return run.stdout


def _package_folders(name: str) -> list[Path]:
    """A package's folders; several if it is a namespace that spans more than one site."""
    spec = find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def cuda_package_roots() -> list[Path]:
    """Where NVIDIA's CUDA 13 packages unpack themselves: laid out like a toolkit."""
    return [folder / "cu13" for folder in _package_folders("nvidia")]


def _toolkit_folders(root: Path, *names: str) -> list[Path]:
    """The toolkit's folders of these names: its own, and those of a conda or cross toolkit's targets."""
    return [folder for name in names for folder in (root / name, *sorted(root.glob(f"targets/*/{name}")))]


def _first_with(file: str, folders: Iterable[Path], needed: str) -> Path:
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise BuildError(f"{file} not found; it comes with {needed}")
