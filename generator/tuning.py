"""specs/tuning/<arch>.yaml, edition 1: launches that were measured to be the fastest, written by `make tune`."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Literal, cast

import yaml
from pydantic import Field

from build_support.architectures import FIRST_WITH_DEPENDENT_LAUNCH
from generator import strict
from generator.problems import BadFile, KeyPath, Problem
from generator.spec import AnyTopK, Architecture, Epilogue, Spec, Threads
from generator.strict import Allowed, Contradiction, StrictModel
from generator.variant import Variant
from generator.vocabulary import DTYPES, EPILOGUES, DTypeName, EpilogueName

Text = Annotated[
    str, Field(pattern=r"^[ -~]{1,100}$"), Allowed("one line of text, in quotes where it looks like a number")
]
DType = Annotated[DTypeName, Allowed(", ".join(DTYPES))]
Behind = Annotated[Literal["trigger", "ordinary"], Allowed("trigger, ordinary")]
L2 = Annotated[int, Field(ge=1, le=1 << 20), Allowed("MiB of that GPU's L2 cache, a whole number from 1")]
PrefetchKib = Annotated[
    int, Field(ge=0, le=1024), Allowed("KiB that each multiprocessor asks for ahead, a whole number from 0 to 1024")
]
Outputs = Annotated[
    Annotated[int, Field(ge=1, lt=1 << 63)] | Literal["any"], Allowed("a whole number of elements from 1, or any")
]


class Measured(StrictModel):
    """What a ladder was measured on."""

    gpu: Text
    date: Text
    driver: Text
    cuda: Text
    torch: Text


class Step(StrictModel):
    """The launch for calls with up to so many `outputs`, elements of the output (tokens x hidden)."""

    outputs: Outputs
    vector_width: Annotated[int, Field(ge=1), Allowed("a whole number of elements")]
    threads: Threads
    prefetch_kib: PrefetchKib


class Ladder(StrictModel):
    """The launches of one kind of call, by rising size; the last step's is `any`.

    `behind` a kernel that triggers, so that the next may start early, or behind an ordinary one. `l2_mib` tells GPUs of
    one architecture apart, whose memories differ: a call follows the ladder whose L2 cache is nearest to its GPU's.
    """

    behind: Behind
    dtype: DType
    epilogue: Epilogue
    topk: AnyTopK
    l2_mib: L2
    measured: Measured
    steps: Annotated[list[Step], Field(min_length=1)]


# What the spec no longer builds leaves ladders behind, which only a GPU can replace.
REMEDY = "; else delete the ladder, or measure it again by `make tune`"

KIND = ("behind", "dtype", "epilogue", "topk", "l2_mib")  # what a file has one ladder for


class TuningFile(StrictModel):
    edition: Annotated[Literal[1], Allowed("1, the edition this generator reads")]
    architecture: Architecture
    ladders: Annotated[list[Ladder], Field(min_length=1)]


@dataclass(frozen=True)
class LaunchRule:
    """A row of the generated table. None is any topk without a kernel of its own, and an input of any size."""

    architecture: int
    behind_trigger: bool
    dtype: DTypeName
    epilogue: EpilogueName
    topk: int | None
    l2_mib: int
    outputs: int | None
    vector_width: int
    threads: int
    prefetch_kib: int

    @property
    def order(self) -> tuple[float, ...]:
        """Ladder by ladder, a given topk before any, and each by rising size."""
        dtype, epilogue = list(DTYPES).index(self.dtype), list(EPILOGUES).index(self.epilogue)
        kind = (not self.behind_trigger, dtype, epilogue, self.topk or inf, self.l2_mib)
        return self.architecture, *kind, self.outputs or inf


def launch_rules(directory: Path, spec: Spec, variants: list[Variant]) -> list[LaunchRule]:
    """The rules of every tuning file in a directory, which need not exist. Raises BadFile."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        found = f"an unreadable directory ({error.strerror})"
        raise BadFile(directory, [Problem(None, None, (), found, "a directory of tuning files, or none")]) from error
    # Hidden files are those that editors leave behind.
    paths = [directory / name for name in names if name.endswith((".yaml", ".yml")) and not name.startswith(".")]
    rules = (rule for path in paths for rule in _rules_of(load(path, spec, variants)))
    return sorted(rules, key=lambda rule: rule.order)


def load(path: Path, spec: Spec, variants: list[Variant]) -> TuningFile:
    """A tuning file that names only what the spec builds. Raises BadFile."""
    return strict.load(path, TuningFile, lambda tuning: _contradictions(path, tuning, spec, variants))


def launches_of(
    dtype: str, epilogue: str, topk: int | str, spec: Spec, variants: list[Variant]
) -> tuple[list[int], list[int]]:
    """What a ladder may name: the vector widths that are built for it, and the threads of its blocks."""
    widths = [
        variant.vector_width
        for variant in variants
        if (variant.backend, variant.hidden, variant.unaligned) == ("cuda", None, False)
        and (variant.dtype, variant.epilogue, variant.topk or "any") == (dtype, epilogue, topk)
    ]
    return widths, [
        threads for threads in spec.threads if threads <= EPILOGUES[cast(EpilogueName, epilogue)].most_threads
    ]


def write_tuning(path: Path, tuning: TuningFile) -> None:
    """Writes a tuning file, with a header that says how to measure it again."""
    header = f"""\
# yaml-language-server: $schema=schema.json
#
# The fastest launches of sm_{tuning.architecture}, each ladder with what it was measured on.
# Written by `make tune`: run that on such a GPU to measure them again.

"""
    data = yaml.safe_dump(tuning.model_dump(), sort_keys=False, default_flow_style=None, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + data, encoding="utf-8")


def _rules_of(tuning: TuningFile) -> Iterator[LaunchRule]:
    for ladder in tuning.ladders:
        for step in ladder.steps:
            yield LaunchRule(
                tuning.architecture,
                ladder.behind == "trigger",
                ladder.dtype,
                ladder.epilogue,
                None if ladder.topk == "any" else ladder.topk,
                ladder.l2_mib,
                None if step.outputs == "any" else step.outputs,
                step.vector_width,
                step.threads,
                step.prefetch_kib,
            )


def _contradictions(path: Path, tuning: TuningFile, spec: Spec, variants: list[Variant]) -> Iterator[Contradiction]:
    if path.name != (expected := f"sm{tuning.architecture}.yaml"):
        yield ("architecture",), f"{tuning.architecture} in {path.name}", f"{tuning.architecture} in {expected}"
    overlaps = tuning.architecture >= FIRST_WITH_DEPENDENT_LAUNCH
    seen: list[tuple[object, ...]] = []
    for index, ladder in enumerate(tuning.ladders):
        here: KeyPath = ("ladders", index)
        for key, listed in (("dtype", list(spec.vector_widths)), ("epilogue", spec.epilogues), ("topk", spec.topk)):
            if (value := getattr(ladder, key)) not in listed:
                yield (*here, key), str(value), f"what the spec lists: {_spell(listed)}{REMEDY}"
        kind = tuple(getattr(ladder, key) for key in KIND)
        if kind in seen:
            yield here, f"another ladder for {_spell(kind)}", f"one for each {', '.join(KIND[:-1])} and {KIND[-1]}"
        seen.append(kind)
        if ladder.behind == "trigger" and not overlaps:
            yield (*here, "behind"), "trigger", f"ordinary, before sm_{FIRST_WITH_DEPENDENT_LAUNCH}"
        yield from _step_contradictions((*here, "steps"), ladder, overlaps, spec, variants)


def _step_contradictions(
    here: KeyPath, ladder: Ladder, overlaps: bool, spec: Spec, variants: list[Variant]
) -> Iterator[Contradiction]:
    built, threads = launches_of(ladder.dtype, ladder.epilogue, ladder.topk, spec, variants)
    sizes = [inf if step.outputs == "any" else step.outputs for step in ladder.steps]
    seen = set()  # one line for each value tells of all steps that have it
    for index, step in enumerate(ladder.steps):
        for key, allowed in (("vector_width", built or [step.vector_width]), ("threads", threads)):
            value = getattr(step, key)
            if value not in allowed and (key, value) not in seen:
                seen.add((key, value))
                yield (*here, index, key), str(value), f"what is built for it: {_spell(allowed)}{REMEDY}"
        if index > 0 and sizes[index] <= sizes[index - 1]:
            yield (*here, index, "outputs"), str(step.outputs), "rising sizes, each once"
        if step.prefetch_kib and not overlaps:
            yield (*here, index, "prefetch_kib"), str(step.prefetch_kib), f"0, before sm_{FIRST_WITH_DEPENDENT_LAUNCH}"
    if sizes[-1] != inf:
        yield (*here, len(sizes) - 1, "outputs"), str(sizes[-1]), "any, in the last step"


def _spell(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
