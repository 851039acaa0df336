"""What is wrong with a file, told as compilers tell it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

KeyPath = tuple[str | int, ...]


def spell(path: KeyPath) -> str:
    """`("dtypes", "float16", "vector_widths", 2)` as `dtypes.float16.vector_widths[2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_word(part)}" for part in path)
    return text.removeprefix(".")


def _word(key: str) -> str:
    """A key as it stands in the file, unless it would break the line that it is told on."""
    return key if key.isprintable() and len(key) <= 60 else f"{key[:60]!r}"


def shown(path: Path) -> str:
    """A path as a person at this prompt would write it."""
    try:
        return (Path.cwd() / path).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


@dataclass(frozen=True, order=True)
class Problem:
    """Line and column count from 1; a problem of the file as a whole has neither, and no key."""

    line: int | None
    column: int | None
    key: KeyPath
    found: str
    allowed: str

    def __str__(self) -> str:
        key = f"{spell(self.key)}: " if self.key else ""
        return f"{key}found {self.found}; allowed: {self.allowed}"


class BadFile(Exception):
    """A spec or a tuning file that cannot be used, with everything that is wrong with it."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> Iterable[str]:
        for problem in self.problems:
            place = "" if problem.line is None else f":{problem.line}:{problem.column}"
            yield f"{shown(self.path)}{place}: {problem}"
