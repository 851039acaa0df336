"""What all tests share: the devices, the random numbers, and who is skipped where there is no GPU."""

import hashlib
import secrets
from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="seed of all random data; without it a new one is drawn and printed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: needs tens of gigabytes of GPU memory, so it wants the GPU for itself")
    if config.option.seed is None:
        # Drawn before xdist hands its options to the workers: all of them have the same one.
        config.option.seed = secrets.randbelow(2**31)


def pytest_report_header(config: pytest.Config) -> str:
    return f"random data: --seed {config.option.seed}"


def why_no_cuda() -> str | None:
    """None where CUDA calls can run."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    import moe_cute  # here, so that the tests of the generator and the build need no build

    if not any(variant["built"] for variant in moe_cute.variants() if variant["backend"] == "cuda"):
        return "this build of moe_cute has no CUDA part"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_cuda()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> torch.Generator:
    """Other numbers for each test and each run, the same again with the same --seed."""
    seed = request.config.getoption("--seed")
    digest = hashlib.sha256(f"{seed} {request.node.nodeid}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@pytest.fixture
def own_threads() -> Iterator[None]:
    """For a test that sets how many torch has on the CPU: the others have theirs again."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
