"""The file of the times that `tune` has measured, one size a line, to which ladders are fitted, also without a GPU."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path

from benchmarks.ladders import Launch, Size


class SizesError(ValueError):
    """A file of times that cannot be read; the message names the file and the line."""


def append(path: Path, sizes: Iterable[Size]) -> None:
    """Adds lines to a file, which need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(_line(size) + "\n" for size in sizes))


def read(path: Path) -> list[Size]:
    """Of a file that may be compressed, as `.xz`. Raises SizesError."""
    try:
        content = path.read_bytes()
        lines = (lzma.decompress(content) if path.suffix == ".xz" else content).decode().splitlines()
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise SizesError(f"{path}: was unreadable ({error}); allowed: a file that `tune` wrote") from None
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _line(size: Size) -> str:
    times = {
        behind: [[*astuple(launch), round(us, 4)] for launch, us in each.items()] for behind, each in size.times.items()
    }
    return json.dumps({**asdict(replace(size, times={})), "times": times})


def _parsed(line: str, place: str) -> Size:
    try:
        found = json.loads(line)
        times = {
            behind: {Launch(*map(int, launch)): float(us) for *launch, us in each}
            for behind, each in found.pop("times").items()
        }
        return Size(**found, times=times)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        names = ", ".join(field.name for field in fields(Size))
        raise SizesError(f"{place}: was no size ({error}); allowed: what `tune` wrote, with {names}") from None
