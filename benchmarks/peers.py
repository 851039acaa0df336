"""The peers' released kernels, taken out of their wheels: `python -m benchmarks.peers fetch`.

Nothing of theirs is committed. Each wheel is downloaded by pip, the few files that hold the kernels are moved into an
ignored cache, and the wheel is deleted. An installed package always goes before the cache.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import rich
import typer
from rich.table import Table

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "peers"

# pip matches a platform tag exactly, so every tag that these wheels could carry is named.
WHEEL_TAGS = (
    *("--python-version", "3.12", "--implementation", "cp", "--abi", "abi3", "--abi", "cp312", "--abi", "none"),
    *(
        "--platform",
        "manylinux_2_34_x86_64",
        "--platform",
        "manylinux_2_28_x86_64",
        "--platform",
        "manylinux_2_17_x86_64",
        "--platform",
        "manylinux2014_x86_64",
    ),
)


class PeerError(Exception):
    """A peer that could not be fetched or is not there; the message says which and how to get it."""


@dataclass(frozen=True)
class PeerFile:
    """One file of a peer's wheel, found either in the installed package or in the cache."""

    distribution: str
    version: str
    member: str

    @property
    def cache_name(self) -> str:
        return self.member.replace("/", ".")

    def installed(self) -> Path | None:
        """The file inside the installed package; the package itself is not imported, for its imports are heavy."""
        package, _, inside = self.member.partition("/")
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations if spec else None) or ():
            candidate = Path(location) / inside
            if candidate.exists():
                return candidate
        return None

    def find(self, cache: Path = CACHE) -> Path:
        """Path of the file, unpacked in the cache if need be.

        Raises:
            PeerError: it is neither installed nor in the cache.
        """
        installed = self.installed()
        if installed:
            return installed
        plain = cache / self.cache_name
        packed = _packed(plain)
        if not plain.exists() and packed.exists():
            with lzma.open(packed) as source:
                _write_atomically(plain, source)
        if not plain.exists():
            raise PeerError(f"{self.distribution} {self.version} is not here: run `python -m benchmarks.peers fetch`")
        return plain

    def found_version(self) -> str:
        return importlib.metadata.version(self.distribution) if self.installed() else self.version


SGL_KERNEL = PeerFile("sglang-kernel", "0.4.5", "sgl_kernel/sm90/common_ops.abi3.so")
VLLM_MOE = PeerFile("vllm", "0.33.0", "vllm/_moe_C_stable_libtorch.abi3.so")
VLLM_MUL_SUM = PeerFile("vllm", "0.33.0", "vllm/model_executor/layers/fused_moe/moe_fused_mul_sum.py")
SGLANG_SUM_REDUCE = PeerFile("sglang", "0.5.23", "sglang/kernels/ops/moe/fused_moe_triton_kernels.py")
FILES = (SGL_KERNEL, VLLM_MOE, VLLM_MUL_SUM, SGLANG_SUM_REDUCE)


@functools.cache
def load_library(peer: PeerFile) -> None:
    """Load a peer's shared object once, which registers its operators under `torch.ops`."""
    import torch

    torch.ops.load_library(str(peer.find()))  # type: ignore[no-untyped-call]


def fetch(cache: Path, pack: bool) -> list[Path]:
    """Fill the cache and return the files written, xz-packed where `pack` says so.

    Raises:
        PeerError: pip found no such wheel, or the wheel lacks the file.
    """
    cache.mkdir(parents=True, exist_ok=True)
    written = []
    for distribution, version in dict.fromkeys((peer.distribution, peer.version) for peer in FILES):
        members = [peer for peer in FILES if peer.distribution == distribution]
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            wheel = _download(distribution, version, Path(folder))
            written += [_extract(wheel, peer, cache, pack) for peer in members]
    return written


def _packed(path: Path) -> Path:
    return path.with_name(path.name + ".xz")


def _download(distribution: str, version: str, folder: Path) -> Path:
    requirement = f"{distribution}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *WHEEL_TAGS]
    if subprocess.run([*command, "--dest", str(folder), requirement]).returncode:
        raise PeerError(f"pip could not download {requirement}; its message is above")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, peer: PeerFile, cache: Path, pack: bool) -> Path:
    # A source file is small and is imported in place, so only shared objects are worth packing.
    pack = pack and peer.member.endswith(".so")
    target = cache / peer.cache_name
    with zipfile.ZipFile(wheel) as archive:
        try:
            member = archive.open(peer.member)
        except KeyError:
            raise PeerError(f"{wheel.name} has no {peer.member}") from None
        with member:
            return _write_atomically(_packed(target) if pack else target, member, pack)


def _write_atomically(target: Path, source: IO[bytes], pack: bool = False) -> Path:
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with lzma.open(partial, "wb") if pack else partial.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    partial.replace(target)
    return target


app = typer.Typer(no_args_is_help=True, add_completion=False, help="The peers that the benchmarks compare with.")


@app.command("fetch")
def fetch_command(
    out: Annotated[Path, typer.Option(help="Folder to fill.")] = CACHE,
    pack: Annotated[bool, typer.Option(help="Keep the shared objects xz-packed, to carry them.")] = False,
) -> None:
    """Download the peers' wheels and keep only the files that hold the kernels."""
    try:
        for path in fetch(out, pack):
            typer.echo(f"{path.stat().st_size / 1e6:8.2f} MB  {path}")
    except PeerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command("list")
def list_command(cache: Annotated[Path, typer.Option(help="Folder that `fetch` filled.")] = CACHE) -> None:
    """Say where each peer would be loaded from."""
    table = Table("peer", "version", "file", "found")
    for peer in FILES:
        plain = cache / peer.cache_name
        places = (peer.installed(), plain, _packed(plain))
        found = next((str(place) for place in places if place and place.exists()), "missing: run `fetch`")
        table.add_row(peer.distribution, peer.found_version(), peer.member, found)
    rich.print(table)


if __name__ == "__main__":
    app()
