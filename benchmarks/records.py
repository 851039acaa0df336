"""The results file: a CSV, one row for each provider at each point, under a header that says where and when."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO

from benchmarks.shapes import Case


class RecordError(ValueError):
    """A results file that cannot be read; the message names the file, the line and the column."""


@dataclass(frozen=True)
class Record:
    """One row. Times are microseconds per call, `gbps` counts the bytes that must move (10^9 bytes per second).

    `error` says why there is no time; `note` what to know about the time there is.
    """

    grid: str
    measure: str
    provider: str
    dtype: str
    topk: int
    hidden: int
    tokens: int
    layout: str
    epilogue: str
    median_us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    gbps: float | None = None
    percent_of_copy: float | None = None
    note: str = ""
    error: str = ""

    @property
    def case(self) -> Case:
        return Case(self.dtype, self.topk, self.hidden, self.tokens, self.layout, self.epilogue)


COLUMNS = tuple(column.name for column in fields(Record))
_PARSERS: dict[str, Callable[[str], object]] = {
    "str": str,
    "int": int,
    "float | None": lambda text: float(text) if text else None,
}


@dataclass
class Results:
    """A header (what, where, when) and the rows."""

    header: dict[str, str]
    records: list[Record] = field(default_factory=list)


class Writer:
    """Writes a results file row by row, so that a run that dies leaves what it had measured."""

    def __init__(self, file: IO[str], header: Mapping[str, str]) -> None:
        self._file = file
        for key, value in header.items():
            file.write(f"# {key}: {value}\n")
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, records: Iterable[Record]) -> None:
        for record in records:
            self._rows.writerow(_text(getattr(record, column)) for column in COLUMNS)
        self._file.flush()


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        RecordError: it is missing, is not a results file, or a row has a wrong value.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path}: not a text file") from None
    comments = [line for line in lines if line.startswith("#")]
    header = {key.strip(): value.strip() for key, _, value in (line[1:].partition(":") for line in comments)}
    rows = csv.reader(lines[len(comments) :])
    columns = tuple(next(rows, ()))
    if columns != COLUMNS:
        wanted = ",".join(COLUMNS)
        raise RecordError(f"{path}:{len(comments) + 1}: the columns are {','.join(columns)!r}, expected {wanted!r}")
    records = [_parse(row, f"{path}:{line}") for line, row in enumerate(rows, len(comments) + 2)]
    return Results(header, records)


def _parse(row: list[str], where: str) -> Record:
    if len(row) != len(COLUMNS):
        raise RecordError(f"{where}: {len(row)} values, expected {len(COLUMNS)}")
    values: dict[str, object] = {}
    for column, text in zip(fields(Record), row, strict=True):
        try:
            values[column.name] = _PARSERS[str(column.type)](text)
        except ValueError:
            raise RecordError(f"{where}: {column.name} is {text!r}, expected {column.type}") from None
    return Record(**values)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
