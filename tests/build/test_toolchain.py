"""What the build finds on a machine, and what it says where something is missing or unusable."""

from pathlib import Path

import pytest

from build_support import build_ext, toolchain
from build_support.errors import BuildError
from build_support.manifest import read_manifest


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of PATH; CUDA_HOME, CXX and the like are unset."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(path: Path, output: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' '{output}'\n")
    path.chmod(0o755)
    return path


def test_cuda_home_comes_before_path(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(machine / "nvcc")
    chosen = program(machine / "toolkit" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(machine / "toolkit"))
    found = toolchain.find_cuda_compiler()
    assert found is not None
    assert found.nvcc == chosen


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_a_cuda_home_without_nvcc_is_refused(name: str, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(machine / "nvcc")
    monkeypatch.setenv(name, str(machine / "elsewhere"))
    with pytest.raises(BuildError, match=rf"^{name} is .*elsewhere, where there is no bin/nvcc that can be run; unset"):
        toolchain.find_cuda_compiler()
    program(machine / "elsewhere" / "bin" / "nvcc").chmod(0o644)
    with pytest.raises(BuildError, match=rf"^{name} is .*elsewhere, where there is no bin/nvcc that can be run; unset"):
        toolchain.find_cuda_compiler()


def test_the_package_is_the_last_resort(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = program(machine / "site" / "cu13" / "bin" / "nvcc")
    monkeypatch.setattr(toolchain, "DEFAULT_TOOLKIT", machine / "cuda")
    monkeypatch.setattr(toolchain, "cuda_package_roots", lambda: [machine / "site" / "cu13"])
    found = toolchain.find_cuda_compiler()
    assert found is not None
    assert found.nvcc == packaged
    packaged.unlink()
    assert toolchain.find_cuda_compiler() is None


def test_a_wrapper_on_path_leads_to_its_toolkit(machine: Path) -> None:
    nvcc = program(machine / "nvcc", f"#$ _HERE_={machine}/toolkit/bin\n#$ TOP={machine}/toolkit/bin/..")
    (machine / "toolkit" / "bin").mkdir(parents=True)
    library = machine / "toolkit" / "lib64" / "libcudart_static.a"
    library.parent.mkdir()
    library.touch()
    compiler = toolchain.CudaCompiler(nvcc)
    assert compiler.root == machine / "toolkit"
    assert compiler.runtime_library == library


def test_what_nvcc_can_compile_for(machine: Path) -> None:
    assert toolchain.CudaCompiler(program(machine / "nvcc", "sm_80\nsm_90\nsm_120")).architectures == {80, 90, 120}


def test_a_missing_header_is_named_with_its_package(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"^cute/tensor.hpp not found; it comes with the nvidia-cutlass package$"):
        toolchain.cutlass_include_folder()
    with pytest.raises(BuildError, match=r"^torch is not installed"):
        toolchain.torch_folder()


@pytest.mark.parametrize("version", ["2.9.1+cu128", "1.13.0"])
def test_an_older_torch_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.metadata, "version", lambda name: version)
    with pytest.raises(BuildError, match=r"^torch is .*; 2\.10 or newer is needed$"):
        toolchain.torch_folder()


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0a0+git1234"])
def test_a_newer_torch_is_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.metadata, "version", lambda name: version)
    assert (toolchain.torch_folder() / "include").is_dir()


def test_cxx_may_hold_a_launcher_and_options(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(machine / "ccache")
    monkeypatch.setenv("CXX", "ccache g++-13 -pipe")
    assert toolchain.cxx_compiler() == ["ccache", "g++-13", "-pipe"]
    assert toolchain.host_compiler(toolchain.cxx_compiler()) == "g++-13"


def test_clang_is_known_by_what_it_says(machine: Path) -> None:
    assert toolchain.is_clang([str(program(machine / "c++", "Debian clang version 14.0.6"))])
    assert not toolchain.is_clang([str(program(machine / "g++", "g++ (Debian 12.2.0-14) 12.2.0"))])


@pytest.mark.parametrize("cxx", ["", "nowhere-g++"])
def test_no_compiler_is_said_plainly(cxx: str, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(BuildError, match=r"^no C\+\+ compiler: ") as refused:
        toolchain.cxx_compiler()
    assert f"{cxx or 'g++ and c++'} not found; install one or set CXX" in str(refused.value)


@pytest.mark.parametrize(("text", "jobs"), [("1", 1), (" 12 ", 12)])
def test_max_jobs(text: str, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", text)
    assert build_ext.jobs() == jobs


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_bad_max_jobs(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", text)
    with pytest.raises(BuildError, match=r"^MAX_JOBS is '.+'; a whole number from 1 is allowed$"):
        build_ext.jobs()


def test_a_missing_manifest_or_source_names_the_mending_command(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"manifest\.json is missing; `python -m generator` writes it$"):
        read_manifest(tmp_path)
    files = '{"cuda": ["a.cu"], "cpu": [], "table": "variants.cpp"}'
    (tmp_path / "manifest.json").write_text(f'{{"files": {files}, "cuda": {{"architectures": [90], "ptx": null}}}}')
    with pytest.raises(BuildError, match=r"a\.cu, listed in .*, is missing; `python -m generator` writes it$"):
        read_manifest(tmp_path)
