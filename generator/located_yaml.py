"""Reads the plain part of YAML, and remembers where each value stands.

Mappings, lists and scalars of YAML 1.2's core schema; nothing that makes a small file large or a word into an object:
tags, anchors, aliases, further documents, deep nesting and endless lists are refused while the text is being parsed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from generator.problems import BadFile, KeyPath, Problem

MAX_BYTES = 16 << 20  # parsed lazily, so this bounds only what one endless word can cost
MAX_ITEMS = 256  # more kernels than 256 of anything make, nobody compiles
MAX_DEPTH = 8

Value = dict[str, "Value"] | list["Value"] | str | int | float | bool | None

_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass
class Located:
    """A file's data, with the line and column (from 1) of each value and of each key."""

    data: Value = None
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read(path: Path) -> Located:
    """Raises BadFile where the file cannot be read or parsing cannot go on; lesser problems come back with the data."""
    return _Reader(path, _read_text(path)).read()


def _read_text(path: Path) -> str:
    def refuse(found: str, allowed: str = "a YAML file") -> BadFile:
        return BadFile(path, [Problem(None, None, (), found, allowed)])

    try:
        if path.is_dir():
            raise refuse("a directory")
        if not path.is_file():
            raise refuse("something that is not a file" if path.exists() else "no such file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise refuse(f"{size} bytes", f"at most {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise refuse(f"an unreadable file ({error.strerror})") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise BadFile(path, [Problem(line, column, (), f"byte 0x{data[error.start]:02x}", "UTF-8 text")]) from error


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.located = Located()

    def read(self) -> Located:
        try:
            events = iter(yaml.parse(self.text, Loader=yaml.SafeLoader))
            event = self._next(events, yaml.StreamStartEvent, yaml.DocumentStartEvent)
            if not isinstance(event, yaml.StreamEndEvent):
                self.located.data = self._value(event, events, ())
                event = self._next(events, yaml.DocumentEndEvent)
                if not isinstance(event, yaml.StreamEndEvent):
                    raise self._refuse(event, (), "a second document", "one document")
        except yaml.reader.ReaderError as error:
            before = self.text[: error.position]
            line, column = before.count("\n") + 1, error.position - before.rfind("\n")
            raise self._bad(
                Problem(line, column, (), f"character {self.text[error.position]!r}", "printable text")
            ) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise self._bad(Problem(line, column, (), f"malformed YAML ({error.problem})", "YAML")) from error
        return self.located

    def _value(self, event: Any, events: Iterator[Any], path: KeyPath) -> Value:
        self.located.values[path] = _place(event)
        if isinstance(event, yaml.AliasEvent):
            raise self._refuse(event, path, f"alias *{event.anchor}", "the value itself, written out")
        if event.anchor is not None:
            self._note(event, path, f"anchor &{event.anchor}", "no anchors")
        if event.tag is not None:
            self._note(event, path, f"tag {_short(event.tag)}", "no tags")
        if len(path) > MAX_DEPTH:
            raise self._refuse(event, path, "deeper nesting", f"at most {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(events, path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        return _scalar(event)

    def _list(self, events: Iterator[Any], path: KeyPath) -> list[Value]:
        items: list[Value] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            here = (*path, len(items))
            if len(items) == MAX_ITEMS:
                raise self._refuse(event, here, "one more item", f"at most {MAX_ITEMS}")
            item = self._value(event, events, here)
            # By type too: true is not 1 here.
            if not isinstance(item, (dict, list)) and (type(item), item) in [(type(other), other) for other in items]:
                self._note(event, here, f"{describe(item)} again", "each item once")
            items.append(item)
        return items

    def _mapping(self, events: Iterator[Any], path: KeyPath) -> dict[str, Value]:
        mapping: dict[str, Value] = {}
        count = 0  # of keys that stand there again, too
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            count += 1
            if count > MAX_ITEMS:
                raise self._refuse(event, path, "one more key", f"at most {MAX_ITEMS}")
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refuse(event, path, "a key that is not a word", "words as keys")
            key: str = event.value
            here = (*path, key)
            if event.tag is not None or event.anchor is not None:
                self._note(event, here, "a key with a tag or an anchor", "words as keys")
            if key in mapping:
                self._note(event, here, "the key again", f"once; first on line {self.located.keys[here][0]}")
                self._value(next(events), events, here)
                continue
            self.located.keys[here] = _place(event)
            mapping[key] = self._value(next(events), events, here)
        return mapping

    def _next(self, events: Iterator[Any], *skipped: type) -> Any:
        return next(event for event in events if not isinstance(event, skipped))

    def _note(self, event: Any, path: KeyPath, found: str, allowed: str) -> None:
        self.located.problems.append(Problem(*_place(event), path, found, allowed))

    def _refuse(self, event: Any, path: KeyPath, found: str, allowed: str) -> BadFile:
        return self._bad(Problem(*_place(event), path, found, allowed))

    def _bad(self, problem: Problem) -> BadFile:
        return BadFile(self.path, [*self.located.problems, problem])


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(event: Any) -> Value:
    text: str = event.value
    if not event.implicit[0] or event.tag is not None:  # quoted
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) < 20 else text  # nothing here counts past int64
    return float(text) if _FLOAT.fullmatch(text) else text


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def describe(value: Value) -> str:
    """A value as an error message shows it."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        return _short(repr(value))
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)
