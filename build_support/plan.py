"""Which sources are compiled with which flags: everything that decides the bits of the result."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from build_support import toolchain
from build_support.architectures import Architecture, choose_architectures
from build_support.manifest import read_manifest

# torch 2.10's C shim and Python 3.10's limited API: all later ones keep them.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030a0000"]

# -ffp-contract=off: GCC would fuse a*b+c where the processor can, and an instruction set would change the bits.
# The other two let it vectorise; no value depends on them. Never -ffast-math, nor -march: a kernel names its own.
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Icsrc"]
CXX_FLAGS += ["-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"]

# The CPU's kernels ask to be one function each, compiled for an instruction set (csrc/instruction_set_body.hpp). Clang
# inlines a function's own calls then, not theirs: 5 times slower. GCC 12 warns of its own header for AVX-512.
GCC_KERNEL_FLAGS = ["-Wno-maybe-uninitialized"]
CLANG_KERNEL_FLAGS = ["-mllvm", "-inline-threshold=1000000"]

# -fmad=false: as -ffp-contract=off. Never --use_fast_math.
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-fmad=false", "--threads=1"]
NVCC_FLAGS += ["-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "-Icsrc"]


@dataclass(frozen=True)
class Compilation:
    """One source and its object; `flags` are those beside the rule's own."""

    rule: str  # "cxx" or "nvcc"
    source: Path
    flags: tuple[str, ...]


@dataclass(frozen=True)
class BuildPlan:
    """All that ninja has to know; without a CUDA compiler, `nvcc` and `architectures` are empty."""

    cxx: tuple[str, ...]
    nvcc: tuple[str, ...]
    compilations: tuple[Compilation, ...]
    link_flags: tuple[str, ...]
    architectures: tuple[Architecture, ...]

    @property
    def summary(self) -> str:
        """One line for the person who builds: what there is, and how to get what there is not."""
        if self.architectures:
            return f"CPU and CUDA backends, for {' '.join(f'sm_{architecture}' for architecture in self.architectures)}"
        return (
            "CPU backend only, no CUDA: there is no nvcc in CUDA_HOME, on PATH, in /usr/local/cuda or in this Python; "
            "`make build` brings one with it, and any CUDA toolkit will do"
        )


def make_plan(root: Path) -> BuildPlan:
    """`root`: the repository, relative to which all sources are named. Raises BuildError."""
    manifest = read_manifest(root / "generated")
    compiler = toolchain.find_cuda_compiler()
    architectures = choose_architectures(manifest, compiler.architectures) if compiler else ()
    cxx, torch = toolchain.cxx_compiler(), toolchain.torch_folder()

    cuda = _system([toolchain.cutlass_include_folder(), *toolchain.cuda_include_folders(compiler)])
    with_cuda = ["-DMOE_CUTE_WITH_CUDA=1"] if compiler else []
    operator = [*cuda, *_system([torch / "include", toolchain.python_include_folder()]), *STABLE_ABI, *with_cuda]
    reported = f'-DMOE_CUTE_ARCHITECTURES="{" ".join(map(str, architectures))}"'

    compilations = [
        Compilation("cxx", source, (*operator, reported) if source.stem == "build_info" else tuple(operator))
        for source in sorted((root / "csrc").glob("*.cpp"))
    ]
    kernel_flags = CLANG_KERNEL_FLAGS if toolchain.is_clang(cxx) else GCC_KERNEL_FLAGS
    compilations += [Compilation("cxx", source, (*cuda, *kernel_flags)) for source in manifest.cpu_sources]
    compilations.append(Compilation("cxx", manifest.table, tuple(with_cuda)))
    # No libtorch_cuda, no run path: the torch that is imported first has what is needed in the process.
    link_flags = ["-shared", f"-L{torch / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"]
    if compiler:
        gencode = [architecture.gencode for architecture in architectures]
        compilations += [Compilation("nvcc", source, (*cuda, *gencode)) for source in manifest.cuda_sources]
        # Another library in the process may bring its own CUDA runtime: this one's symbols are nobody else's.
        link_flags += [str(compiler.runtime_library), "-Wl,--exclude-libs,libcudart_static.a"]
        link_flags += ["-ldl", "-lpthread", "-lrt"]

    return BuildPlan(
        cxx=(*cxx, *CXX_FLAGS),
        nvcc=(str(compiler.nvcc), f"-ccbin={toolchain.host_compiler(cxx)}", *NVCC_FLAGS) if compiler else (),
        compilations=tuple(compilations),
        link_flags=tuple(link_flags),
        architectures=architectures,
    )


def _system(folders: Iterable[Path]) -> list[str]:
    """Other people's headers: their warnings are not ours to mend."""
    return [word for folder in folders for word in ("-isystem", str(folder))]
