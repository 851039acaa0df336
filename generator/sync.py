"""Brings files on disk to what was generated in memory, touching nothing that anybody else wrote."""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from generator import notice
from generator.problems import shown


class State(Enum):
    UNCHANGED = "unchanged"
    CREATED = "created"
    UPDATED = "updated"
    REMOVED = "removed"
    HAND_EDITED = "edited by hand"
    FOREIGN = "not the generator's"


@dataclass(frozen=True)
class Change:
    """What becomes of one file; an old or new text of None is no file."""

    path: Path
    state: State
    old: str | None
    new: str | None


def plan(files: Mapping[Path, str], directory: Path) -> list[Change]:
    """The changes that make `files` true, and leave no other generated file in `directory`."""
    # Editors and file managers leave hidden files behind; nothing compiles those.
    present = {path for path in directory.glob("*") if not path.name.startswith(".")}
    return [_change(path, files.get(path)) for path in sorted({*files, *present})]


def _change(path: Path, new: str | None) -> Change:
    if not os.path.lexists(path):
        return Change(path, State.CREATED, None, new)
    if path.is_symlink() or not path.is_file():
        return Change(path, State.FOREIGN, None, new)
    old = path.read_bytes().decode("utf-8", "replace")
    if not notice.is_ours(old):
        return Change(path, State.FOREIGN, old, new)
    if not notice.is_untouched(old):
        return Change(path, State.HAND_EDITED, old, new)
    if new is None:
        return Change(path, State.REMOVED, old, None)
    return Change(path, State.UNCHANGED if old == new else State.UPDATED, old, new)


def refusals(changes: Iterable[Change], force: bool) -> Iterator[str]:
    """What stands in the way, and what to do about it."""
    for change in changes:
        if change.state is State.FOREIGN:
            yield f"{shown(change.path)} was not written by the generator: move it elsewhere"
        elif change.state is State.HAND_EDITED and not force:
            yield (
                f"{shown(change.path)} was edited by hand: carry the edit over to specs/ or templates/, "
                "then let --force overwrite it"
            )


def apply(changes: Iterable[Change]) -> None:
    for change in changes:
        if change.state is State.UNCHANGED:
            continue
        if change.new is None:
            change.path.unlink()
        else:
            change.path.parent.mkdir(parents=True, exist_ok=True)
            # Hidden, so that one left by a crash is not taken for a foreign file; replaced whole, so that a build that
            # runs meanwhile reads the old file or the new one.
            temporary = change.path.with_name(f".{change.path.name}.tmp")
            try:
                temporary.write_bytes(change.new.encode())
                temporary.replace(change.path)
            except BaseException:  # an interrupt, too
                temporary.unlink(missing_ok=True)
                raise


def diff(changes: Iterable[Change]) -> str:
    """From what is on disk to what would be generated."""
    return "".join(
        line
        for change in changes
        if change.state not in (State.UNCHANGED, State.FOREIGN)
        for line in difflib.unified_diff(
            (change.old or "").splitlines(keepends=True),
            (change.new or "").splitlines(keepends=True),
            "/dev/null" if change.old is None else shown(change.path),
            "/dev/null" if change.new is None else f"{shown(change.path)} (generated)",
        )
    )
