"""sum_reduce at the shapes of real models, on the GPU if there is one, else on the CPU: its error, its bits, its time.

Exits with 1 if a result is further from float64 than one rounding of a float32 sum can be, or if two variants differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import moe_cute

DTYPE = torch.bfloat16
SCALE = 2.5  # DeepSeek-V3's routed_scaling_factor
TOKENS = (1, 256)
TIMED_SECONDS = 0.3  # for each point
LAUNCHES_PER_GRAPH = 50


@dataclass(frozen=True)
class Shape:
    model: str
    hidden: int
    topk: int


SHAPES = (
    Shape("Qwen3-30B-A3B", 2048, 8),
    Shape("Qwen3-235B-A22B", 4096, 8),
    Shape("Qwen3-Next-80B-A3B", 2048, 10),
    Shape("DeepSeek-V3, Kimi K2", 7168, 8),
    Shape("DeepSeek-V3 + shared", 7168, 9),
    Shape("DeepSeek-V2-Lite", 2048, 6),
    Shape("Mixtral 8x7B", 4096, 2),
    Shape("gpt-oss", 2880, 4),
    Shape("GLM-4.5", 5120, 8),
    Shape("MiniMax-M2", 3072, 8),
    Shape("Llama 4", 5120, 1),
)


@dataclass(frozen=True)
class Result:
    """Errors are the largest against float64; times are microseconds a call."""

    shape: Shape
    tokens: int
    variant: str
    error: float
    torch_error: float
    right: bool
    microseconds: float
    torch_microseconds: float
    accepting: int
    agreeing: int

    @property
    def passed(self) -> bool:
        return self.right and self.agreeing == self.accepting


def main() -> None:
    device = chosen_device()
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    points = [(shape, tokens) for shape in SHAPES for tokens in TOKENS]
    progress = track(points, "Running", console=console, transient=True, disable=not console.is_terminal)
    results = [run(shape, tokens, device) for shape, tokens in progress]
    console.print(table(results, device))
    console.print(notes(device), style="dim")
    console.print("Variants: " + ", ".join(dict.fromkeys(result.variant for result in results)) + ".", style="dim")
    failed = sum(not result.passed for result in results)
    if failed:
        console.print(f"{failed} of {len(results)} points failed: see the red rows.", style="red")
        raise SystemExit(1)
    console.print(f"All {len(results)} points are right, and every variant that takes a point gives the same bits.")


def chosen_device() -> torch.device:
    built = any(variant["built"] for variant in moe_cute.variants() if variant["backend"] == "cuda")
    return torch.device("cuda" if built and torch.version.cuda and torch.cuda.is_available() else "cpu")


def run(shape: Shape, tokens: int, device: torch.device) -> Result:
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(tokens, shape.topk, shape.hidden, generator=generator).to(device, DTYPE)
    output, torch_output = (torch.empty(tokens, shape.hidden, dtype=DTYPE, device=device) for _ in range(2))

    def ours() -> None:
        moe_cute.sum_reduce(input, output, SCALE)

    def torchs() -> None:
        torch.sum(input, dim=1, out=torch_output).mul_(SCALE)

    ours()
    torchs()
    exact = input.double().sum(1) * SCALE
    error, torch_error = ((result.double() - exact).abs() for result in (output, torch_output))
    least, torch_least = fastest_microseconds([ours, torchs], device)
    others = [other.to(device) for other in other_results(input)]
    return Result(
        shape=shape,
        tokens=tokens,
        variant=str(moe_cute.explain(input, output).variant),
        error=error.max().item(),
        torch_error=torch_error.max().item(),
        right=bool((error <= allowed_error(input, exact)).all()),
        microseconds=least,
        torch_microseconds=torch_least,
        accepting=len(others),
        agreeing=sum(torch.equal(other.view(torch.int16), output.view(torch.int16)) for other in others),
    )


def allowed_error(input: Tensor, exact: Tensor) -> Tensor:
    """Half a unit in the last place for the one rounding, and what `topk` float32 additions and the scale may lose."""
    accumulation = (input.shape[1] + 1) * torch.finfo(torch.float32).eps * SCALE * input.double().abs().sum(1)
    return torch.finfo(DTYPE).eps / 2 * exact.abs() + accumulation


def other_results(input: Tensor) -> list[Tensor]:
    """What every variant computes that does not refuse the input; the CPU's too, where the input is on a GPU."""
    results = []
    for place in {input.device.type: input, "cpu": input.cpu()}.values():
        for variant in moe_cute.variants():
            if variant["backend"] != place.device.type:
                continue
            try:
                results.append(moe_cute.sum_reduce(place, None, SCALE, variant=variant["name"]))
            except ValueError as refusal:
                if not str(refusal).startswith("variant:"):
                    raise
    return results


def fastest_microseconds(calls: Sequence[Callable[[], None]], device: torch.device) -> list[float]:
    """The least of many times, taken in turns: what else runs on the machine only ever adds."""
    timers = [graph_timer(call) if device.type == "cuda" else cpu_timer(call) for call in calls]
    best = [math.inf] * len(calls)
    end = time.perf_counter() + TIMED_SECONDS
    while time.perf_counter() < end:
        best = [min(least, timer()) for least, timer in zip(best, timers, strict=True)]
    return best


def cpu_timer(call: Callable[[], None]) -> Callable[[], float]:
    def microseconds() -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e6

    return microseconds


def graph_timer(call: Callable[[], None]) -> Callable[[], float]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES_PER_GRAPH):
            call()

    def microseconds() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        milliseconds: float = start.elapsed_time(end)
        return milliseconds * 1000 / LAUNCHES_PER_GRAPH

    return microseconds


def table(results: list[Result], device: torch.device) -> Table:
    place = torch.cuda.get_device_name() if device.type == "cuda" else f"the CPU (threads: {torch.get_num_threads()})"
    table = Table(
        title=f"moe_cute.sum_reduce on {place}: {DTYPE}, routed_scaling_factor {SCALE}",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    for heading in ("tokens", "topk", "hidden", "error", "torch's", "µs", "torch's", "ratio", "bits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.shape.model,
            *(str(size) for size in (result.tokens, result.shape.topk, result.shape.hidden)),
            *(f"{error:.4f}" for error in (result.error, result.torch_error)),
            *(f"{time:.1f}" for time in (result.microseconds, result.torch_microseconds)),
            f"{result.torch_microseconds / result.microseconds:.1f}",
            f"{result.agreeing}/{result.accepting}",
            style="" if result.passed else "red",
        )
    return table


def notes(device: torch.device) -> str:
    timed = f"for a call in a CUDA graph of {LAUNCHES_PER_GRAPH}" if device.type == "cuda" else "of a call"
    return (
        "error: the largest against float64 · torch's: sum, then mul_, into a given output · µs: the least time "
        f"{timed}, on one input, which the caches may hold (`make bench` measures without them) · bits: how many of "
        "the variants that take the input give these"
    )


if __name__ == "__main__":
    main()
