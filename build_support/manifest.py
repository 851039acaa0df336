"""generated/manifest.json, as far as the build needs it."""

import json
from dataclasses import dataclass
from pathlib import Path

from build_support.errors import BuildError


@dataclass(frozen=True)
class Manifest:
    """The generated sources by backend, and the spec's architectures (90 is sm_90), `ptx` for GPUs that come after."""

    cuda_sources: tuple[Path, ...]
    cpu_sources: tuple[Path, ...]
    table: Path
    architectures: tuple[int, ...]
    ptx: int | None


def read_manifest(generated: Path) -> Manifest:
    """Raises BuildError if the manifest or a file that it lists is missing."""
    path = generated / "manifest.json"
    if not path.is_file():
        raise BuildError(f"{path} is missing; `python -m generator` writes it")
    content = json.loads(path.read_text())
    files = content["files"]
    manifest = Manifest(
        cuda_sources=tuple(generated / name for name in files["cuda"]),
        cpu_sources=tuple(generated / name for name in files["cpu"]),
        table=generated / files["table"],
        architectures=tuple(content["cuda"]["architectures"]),
        ptx=content["cuda"]["ptx"],
    )
    for source in (*manifest.cuda_sources, *manifest.cpu_sources, manifest.table):
        if not source.is_file():
            raise BuildError(f"{source}, listed in {path}, is missing; `python -m generator` writes it")
    return manifest
