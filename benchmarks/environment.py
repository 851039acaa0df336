"""Where and when a run took place: the header of a results file."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks import peers

UNKNOWN = "unknown"


def describe(device: torch.device, revision: str | None = None) -> dict[str, str]:
    """Machine, device, versions, date and git revision (`revision` where there is no repository to ask)."""
    header = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": revision or _git_revision(),
        "machine": f"{platform.system()} {platform.machine()}, {_cpu_name()}, {os.cpu_count()} cores",
        "device": _device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        header["gpu"] = f"{properties.multi_processor_count} SMs, {properties.L2_cache_size >> 20} MiB L2"
        header["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0]
        header["cuda"] = torch.version.cuda or UNKNOWN
        header["peers"] = ", ".join(
            dict.fromkeys(f"{peer.distribution} {peer.found_version()}" for peer in peers.FILES)
        )
    else:
        header["threads"] = str(torch.get_num_threads())
    return header


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or UNKNOWN
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), UNKNOWN)


def _git_revision() -> str:
    here = str(Path(__file__).parent)
    revision = _output("git", "-C", here, "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", here, "status", "--porcelain", "--untracked-files=no")
    return revision if changed in ("", UNKNOWN) else f"{revision} with changes"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
