"""`python -m benchmarks tune`: measures launches on this GPU, and writes the fastest into specs/tuning/."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import torch
from rich.progress import track

from benchmarks import environment
from benchmarks.measure import measure_chain, measure_cold
from benchmarks.operands import Operands, rotating_operands
from benchmarks.shapes import Case

HIDDEN = 4096
TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 8192)
VECTOR_BYTES = (16, 8, 4)
PREFETCH_TOKENS = 512  # beyond, a launch reads many times what fits while the kernel before it drains
REPLAYS = 7
WORTH_A_STEP = 1.01  # a launch less than one percent faster than its neighbour's is noise: the ladder stays short

#                dtype, topk, epilogue; calls between them follow the nearest
LADDERS = (
    *(("bfloat16", topk, "plain") for topk in (1, 2, 4, 8, 10)),
    ("float16", 8, "plain"),
    ("float32", 2, "plain"),
    ("float32", 8, "plain"),
    ("float64", 8, "plain"),
    ("bfloat16", 8, "weighted"),
    ("bfloat16", 8, "unpermute_weighted"),
)
EPILOGUE = {"plain": "plain", "weighted": "weighted", "unpermute_weighted": "permuted"}


@dataclass(frozen=True, order=True)
class Launch:
    vector_width: int
    threads: int
    prefetch: bool


def tune(path: Path, device: torch.device, threads: Sequence[int]) -> None:
    """Measures every ladder and writes them to `path`. Takes about two minutes on an H200."""
    from generator.tuning import TuningFile, write_tuning

    facts = environment.describe(device, None)
    ladders = [
        {
            "dtype": dtype,
            "epilogue": EPILOGUE[epilogue],
            "topk": topk,
            "steps": list(_steps(dtype, topk, epilogue, device, threads)),
        }
        for dtype, topk, epilogue in track(LADDERS, description="ladders")
    ]
    major, minor = torch.cuda.get_device_capability(device)
    measured = {
        "gpu": facts["device"],
        "date": facts["date"][:10],
        "driver": facts["driver"],
        "cuda": facts["cuda"],
        "torch": str(torch.__version__),
    }
    file = {"edition": 1, "architecture": 10 * major + minor, "measured": measured, "ladders": ladders}
    write_tuning(path, TuningFile.model_validate(file))


def _steps(
    dtype: str, topk: int, epilogue: str, device: torch.device, threads: Sequence[int]
) -> Iterator[dict[str, object]]:
    points = [
        (tokens * HIDDEN, _times(Case(dtype, topk, HIDDEN, tokens, epilogue=epilogue), device, threads))
        for tokens in TOKENS
    ]
    chosen = _smooth([times for _, times in points])
    bounds = [math.isqrt(here * there) for (here, _), (there, _) in pairwise(points)]
    for index, launch in enumerate(chosen):
        if index + 1 < len(chosen) and chosen[index + 1] == launch:
            continue  # the next step says the same
        yield {
            "output_elements": bounds[index] if index < len(bounds) else "any",
            "vector_width": launch.vector_width,
            "threads": launch.threads,
            "prefetch": launch.prefetch,
        }


def _smooth(points: Sequence[dict[Launch, float]]) -> list[Launch]:
    """The fastest launch of each point, or its smaller neighbour's where that is as good."""
    chosen: list[Launch] = []
    for times in points:
        best = min(times, key=lambda launch: (times[launch], launch))
        before = chosen[-1] if chosen else best
        chosen.append(before if before in times and times[before] <= times[best] * WORTH_A_STEP else best)
    return chosen


def _times(case: Case, device: torch.device, threads: Sequence[int]) -> dict[Launch, float]:
    """Geometric mean, in microseconds, of the time on cold operands and the time behind the kernel that wrote them."""
    operands = rotating_operands(case, device)
    calls = dict(_launches(case, threads))
    cold = measure_cold(calls, operands, case.bytes_moved, REPLAYS)
    chain = measure_chain(calls, operands, _rewrite, case.bytes_moved, REPLAYS)
    return {launch: math.sqrt(cold[launch].median_us * max(chain[launch].median_us, 0.1)) for launch in calls}


def _rewrite(source: Operands, target: Operands) -> None:
    torch.neg(source.input, out=target.input)


def _launches(case: Case, threads: Sequence[int]) -> Iterator[tuple[Launch, Callable[[Operands], object]]]:
    from moe_cute import variants
    from moe_cute._extension import _C

    built = {
        variant["vector_width"]: variant["name"]
        for variant in variants()
        if (variant["backend"], variant["dtype"], variant["epilogue"]) == ("cuda", case.dtype, EPILOGUE[case.epilogue])
        and (variant["hidden"], variant["topk"]) == (0, case.topk)
    }
    widths = [size // case.torch_dtype.itemsize for size in VECTOR_BYTES if size // case.torch_dtype.itemsize in built]
    prefetches = (False, True) if case.tokens <= PREFETCH_TOKENS else (False,)
    for width, block, prefetch in product(widths, threads, prefetches):

        def call(each: Operands, name: str = built[width], block: int = block, prefetch: bool = prefetch) -> None:
            extras = (each.topk_weights, None, None, each.inv_permuted_idx, each.shared_output, each.num_tokens)
            _C.sum_reduce(each.input, each.output, 1.0, True, *extras, name, block, prefetch)

        yield Launch(width, block, prefetch), call
