"""For which GPUs a build is made."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from build_support import architectures
from build_support.architectures import Architecture, choose_architectures, parse_architectures
from build_support.errors import BuildError
from build_support.manifest import Manifest

NVCC_13 = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121}
NVCC_12_4 = {70, 75, 80, 86, 87, 89, 90}
SPEC = Manifest((), (), Path(), (80, 90, 100, 120), 120)


@pytest.fixture(autouse=True)
def _a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(architectures, "_gpus_here", lambda: [])


def _words_of(architectures: Iterable[Architecture]) -> str:
    return " ".join(map(str, architectures))


def chosen(supported: set[int] = NVCC_13) -> str:
    return _words_of(choose_architectures(SPEC, supported))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9.0", "90"),
        ("8.0;9.0+PTX", "80 90 90+PTX"),
        ("8.0 9.0, 12.0 ;", "80 90 120"),
        ("9.0;9.0", "90"),
        ("9.0a", "90a"),
        ("10.0f+PTX", "100f 100f+PTX"),
        ("Hopper", "90 90+PTX"),
        ("ampere;9.0", "80 86 86+PTX 90"),
    ],
)
def test_torch_spellings(text: str, expected: str) -> None:
    assert _words_of(parse_architectures(text, NVCC_13)) == expected


@pytest.mark.parametrize(
    "text", ["90", "sm_90", "9.0+ptx", "9", "9.0b", "Pascal", "3.5", "7.5", "13.0", "native", "8.0a", "9.0f"]
)
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(
        BuildError, match=r"^TORCH_CUDA_ARCH_LIST: '.+'; allowed with this nvcc: 8\.0, 8\.6, .*Hopper.*All"
    ):
        parse_architectures(f"8.0;{text}", NVCC_13)


def test_what_this_nvcc_cannot_make_is_refused() -> None:
    with pytest.raises(BuildError, match=r"'10\.0'; allowed with this nvcc: 8\.0, .*9\.0 "):
        parse_architectures("10.0", NVCC_12_4)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("8.6", ["arch=compute_80,code=sm_86"]),
        ("9.0", ["arch=compute_90,code=sm_90"]),
        ("12.0+PTX", ["arch=compute_90,code=sm_120", "arch=compute_120,code=compute_120"]),
        ("9.0a+PTX", ["arch=compute_90a,code=sm_90a", "arch=compute_90a,code=compute_90a"]),
    ],
)
def test_flags(text: str, flags: list[str]) -> None:
    assert [architecture.gencode for architecture in parse_architectures(text, NVCC_13)] == [
        f"-gencode={flag}" for flag in flags
    ]


def test_the_spec_decides_where_nothing_else_does() -> None:
    assert chosen() == "80 90 100 120 120+PTX"
    assert chosen(NVCC_12_4) == "80 90"


def test_this_machines_gpus_come_before_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_gpus_here", lambda: [90, 89, 90, 75])
    assert chosen() == "89 90"


def test_a_gpu_that_is_too_old_leaves_it_to_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_gpus_here", lambda: [70])
    assert chosen() == "80 90 100 120 120+PTX"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.0+PTX", "80 80+PTX 90+PTX"),
        ("Ampere;9.0", "80 86 86+PTX 90 90+PTX"),
        ("8.9+PTX 12.0+PTX", "89 89+PTX 120 120+PTX 90+PTX"),
        ("Ada;Hopper", "89 89+PTX 90 90+PTX"),
        ("8.0;12.0+PTX", "80 120 120+PTX"),
    ],
)
def test_no_gpu_with_dependent_launches_is_left_to_an_old_ptx(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code would not wait for the kernel before, which the host does not wait for either."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", text)
    assert chosen() == expected


def test_the_specs_own_old_ptx_gets_a_newer_one_beside_it() -> None:
    assert _words_of(choose_architectures(Manifest((), (), Path(), (80,), 80), NVCC_13)) == "80 80+PTX 90+PTX"


def test_the_list_comes_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_gpus_here", lambda: [90])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    assert chosen() == "86"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "All")
    assert chosen() == "80 90 100 120 120+PTX"
