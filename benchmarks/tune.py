"""`python -m benchmarks tune`: measures launches on this GPU, and writes the fastest into specs/tuning/."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from rich.progress import track

from benchmarks import environment, ladders, sizes
from benchmarks.ladders import Launch, Size, Times
from benchmarks.measure import FASTEST_BYTES_PER_US
from benchmarks.operands import Operands, rotating_operands
from benchmarks.producers import measure_behind
from benchmarks.shapes import Case
from build_support.architectures import FIRST_WITH_DEPENDENT_LAUNCH
from generator.vocabulary import EPILOGUES, EpilogueName

#          hidden, tokens
SHAPES = (
    *((4096, tokens) for tokens in (1, 4, 16, 24, 32, 64, 96, 128, 192, 256, 512, 1024, 8192)),
    *((2048, tokens) for tokens in (1, 16, 64, 256)),
    *((2880, tokens) for tokens in (64, 256, 512)),
    (5120, 64),
    *((7168, tokens) for tokens in (1, 16, 32, 64)),
)
VECTOR_BYTES = (16, 8, 4)
PREFETCH_KIB = (0, 12, 24, 40)
ROUNDS = (3, 9)  # replays of every launch, then of those that came near the fastest
REPLAY_US = 200.0
NEAR = 1.06
# Blocks that an H100 starts and ends, at most: [1024, 2, 4096] takes 20.6 us in 16384 blocks, and 8.5 in 4096.
BLOCKS_PER_US = 800
MEASURED_ANYWAY_US = 1.5  # whatever their blocks, calls as short as this

# A fused kernel is measured with shared_output, which not every call has: its ladder serves both.
EPILOGUE: dict[str, EpilogueName] = {
    "plain": "plain",
    "weighted_shared": "weighted",
    "unpermute_weighted_shared": "permuted",
}


@dataclass(frozen=True)
class Ladder:
    """What is measured: `topk` is that of the calls, `kernel` that of the kernels (0: those for any)."""

    dtype: str
    topk: int
    kernel: int
    epilogue: str = "plain"

    @property
    def key(self) -> tuple[str, str, int | str]:
        """Of its kernels: dtype, epilogue, topk."""
        return self.dtype, EPILOGUE[self.epilogue], self.kernel or "any"

    def __str__(self) -> str:
        return "/".join(map(str, self.key))


# Calls between them follow the nearest; 16-bit dtypes share theirs.
LADDERS = (
    *(Ladder("bfloat16", topk, topk) for topk in (8, 6, 4, 2, 10, 1)),
    Ladder("bfloat16", 8, 8, "weighted_shared"),
    Ladder("bfloat16", 8, 8, "unpermute_weighted_shared"),
    Ladder("bfloat16", 5, 0),
    Ladder("float32", 8, 8),
    Ladder("float32", 8, 8, "weighted_shared"),
    Ladder("float32", 8, 8, "unpermute_weighted_shared"),
    Ladder("float32", 2, 2),
    Ladder("float32", 5, 0),
    Ladder("float64", 8, 8),
    Ladder("float64", 3, 0),
)


Calls = dict[Launch, Callable[[Operands], object]]


def tune(
    folder: Path,
    times_path: Path,
    known: Sequence[Size],
    device: torch.device,
    threads: Sequence[int],
    chosen: Sequence[Ladder] = LADDERS,
    shapes: Sequence[tuple[int, int]] = SHAPES,
) -> list[Ladder]:
    """Measures ladders at `shapes` (hidden, tokens), about 50 seconds each on an H200 at all of SHAPES.

    As each is done, its times go to the end of `times_path`. Once these and those `known` before, of its kernels on
    such a GPU, are of all of SHAPES, the ladder fitted to them goes into the tuning file of its architecture in
    `folder`, in place of the one that was there.

    Returns:
        the ladders that did not, for want of other sizes.

    Raises:
        generator.problems.BadFile: where the tuning file is not one that can be added to; nothing was measured.
    """
    facts = environment.describe(device, None)
    major, minor = torch.cuda.get_device_capability(device)
    architecture = 10 * major + minor
    # Raises, where it does, before a GPU's time has gone into what could not be written.
    ladders.of_file(ladders.file_in(folder, architecture))
    properties = torch.cuda.get_device_properties(device)
    l2_mib = properties.L2_cache_size >> 20
    machine = {
        "gpu": facts["device"],
        "date": facts["date"][:10],
        "driver": facts["driver"],
        "cuda": facts["cuda"],
        "torch": str(torch.__version__),
    }
    overlaps = architecture >= FIRST_WITH_DEPENDENT_LAUNCH
    known, wanting = list(known), []
    for ladder in track(chosen, description="ladders"):
        measured = [
            Size(
                architecture,
                *ladder.key,
                l2_mib,
                properties.multi_processor_count,
                machine,
                *shape,
                _times(ladder, *shape, device, threads, properties.multi_processor_count, overlaps),
            )
            for shape in shapes_of(ladder, shapes)
        ]
        sizes.append(times_path, measured)
        known += measured
        here = {size.kernels for size in measured}
        if fit(folder, ladders.by_kernels(size for size in known if size.kernels in here)):
            wanting.append(ladder)
    return wanting


def fit(folder: Path, kinds: Sequence[Sequence[Size]]) -> list[Sequence[Size]]:
    """Puts ladders into the tuning files in `folder`, and gives back the kinds of kernels of which it put none: not all
    of SHAPES were measured, or the spec no longer builds them. Raises generator.problems.BadFile."""
    found = [(kind, list(ladders.fitted(kind)) if is_complete(kind) else []) for kind in kinds]
    for architecture in sorted({kind[0].architecture for kind, fitted in found if fitted}):
        ladders.put(
            ladders.file_in(folder, architecture),
            architecture,
            [ladder for kind, fitted in found if kind[0].architecture == architecture for ladder in fitted],
        )
    return [kind for kind, fitted in found if not fitted]


def is_complete(known: Sequence[Size]) -> bool:
    return {(size.hidden, size.tokens) for size in known} >= set(SHAPES)


def shapes_of(ladder: Ladder, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[tuple[int, int]]:
    """Those with launches to measure: none where the spec no longer has the ladder's kernels."""
    return [
        (hidden, tokens)
        for hidden, tokens in shapes
        if _kernels(Case(ladder.dtype, ladder.topk, hidden, tokens, epilogue=ladder.epilogue), ladder)
    ]


def _times(
    ladder: Ladder,
    hidden: int,
    tokens: int,
    device: torch.device,
    threads: Sequence[int],
    multiprocessors: int,
    overlaps: bool,
) -> dict[str, Times]:
    """Of each launch, by what it is behind."""
    case = Case(ladder.dtype, ladder.topk, hidden, tokens, epilogue=ladder.epilogue)
    operands = rotating_operands(case, device, caches=2)
    calls = dict(launches(case, ladder, threads, multiprocessors))

    def measure(predecessors: Sequence[str], calls: Calls, replays: int) -> dict[str, Times]:
        return {
            predecessor: {
                launch: sample.median_us
                for launch, sample in measure_behind(
                    predecessor, calls, operands, case.bytes_moved, replays, REPLAY_US
                ).items()
            }
            for predecessor in predecessors
        }

    if not overlaps:  # nor is there a time to prefetch in
        plain = {each: call for each, call in calls.items() if not each.prefetch_kib}
        return _narrowed(plain, partial(measure, ["ordinary"]))
    found = _narrowed(calls, partial(measure, ["itself", "trigger"])) | _narrowed(calls, partial(measure, ["ordinary"]))
    return {predecessor: _with_equals(times) for predecessor, times in found.items()}


def _with_equals(times: Times) -> Times:
    """Also of the launches that `launches` left out, since another does the same."""
    most = {
        replace(launch, prefetch_kib=kib): launch
        for launch in sorted(times)
        for kib in PREFETCH_KIB
        if launch.prefetch_kib <= kib
    }
    return {launch: times[equal] for launch, equal in most.items()}


def _narrowed(calls: Calls, measure: Callable[[Calls, int], dict[str, Times]]) -> dict[str, Times]:
    first, second = ROUNDS
    found = measure(calls, first)
    times = ladders.deciding("trigger" if "trigger" in found else "ordinary", found)
    bound = NEAR * min(times.values())
    near = {launch: call for launch, call in calls.items() if times[launch] <= bound}
    again = measure(near, second)
    return {predecessor: found[predecessor] | again[predecessor] for predecessor in found}


def _kernels(case: Case, ladder: Ladder) -> dict[int, str]:
    """By vector width: of two, the one for this hidden size alone, which is what such a call gets."""
    from moe_cute import variants

    kind = ("cuda", case.dtype, EPILOGUE[case.epilogue], ladder.kernel)
    fitting = [
        variant
        for variant in variants()
        if (variant["backend"], variant["dtype"], variant["epilogue"], variant["topk"]) == kind
        and variant["hidden"] in (0, case.hidden)
        and not variant["unaligned"]
    ]
    return {each["vector_width"]: each["name"] for each in sorted(fitting, key=lambda each: bool(each["hidden"]))}


def _amounts(case: Case, multiprocessors: int) -> Iterator[int]:
    """Of PREFETCH_KIB, those that are less than all, and the first that is not."""
    of_each = case.tokens * case.topk * case.hidden * case.torch_dtype.itemsize / 1024 / multiprocessors
    for kib in PREFETCH_KIB:
        yield kib
        if kib >= of_each:
            return


def launches(
    case: Case, ladder: Ladder, threads: Sequence[int], multiprocessors: int
) -> Iterator[tuple[Launch, Callable[[Operands], object]]]:
    """All that differ in what they do: once a launch prefetches all, more is the same."""
    from moe_cute._extension import _C

    built = _kernels(case, ladder)
    widths = [size // case.torch_dtype.itemsize for size in VECTOR_BYTES if size // case.torch_dtype.itemsize in built]
    blocks = [block for block in threads if block <= EPILOGUES[EPILOGUE[case.epilogue]].most_threads]
    longest_us = max(MEASURED_ANYWAY_US, case.bytes_moved / FASTEST_BYTES_PER_US)
    for width, block, prefetch_kib in product(widths, blocks, _amounts(case, multiprocessors)):
        if case.tokens * case.hidden / (width * block) > longest_us * BLOCKS_PER_US:
            continue

        def call(each: Operands, name: str = built[width], block: int = block, kib: int = prefetch_kib) -> None:
            extras = (each.topk_weights, None, None, each.inv_permuted_idx, each.shared_output, each.num_tokens)
            _C.sum_reduce(each.input, each.output, 1.0, True, *extras, name, block, kib)

        yield Launch(width, block, prefetch_kib), call
