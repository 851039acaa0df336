"""A mixture-of-experts block of Qwen3-30B-A3B's size in transformers, with the experts "grouped_mm" and "moe_cute".

`python -m benchmarks.moe_block` times the whole block, and the tail alone: the passes over the experts' rows that
transformers makes after the last GEMM, against one sum_reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from benchmarks import environment
from benchmarks.correctness import find_error
from benchmarks.fused import TRANSFORMERS, Transformers
from benchmarks.measure import Sample, measure_cold
from benchmarks.operands import Operands, rotating_operands
from benchmarks.providers import OURS, MoeCute
from benchmarks.records import Record, Writer
from benchmarks.rounding import rounded_down
from benchmarks.shapes import Case
from moe_cute.integrations.transformers import register

HIDDEN, EXPERTS, INTERMEDIATE, TOPK = 2048, 128, 768, 8
DTYPE = "bfloat16"
WEIGHT_STD = 0.02  # the model's initializer_range
BATCHES = 4  # of hidden states: at one token, each reaches experts that the cache does not hold
ALLOWED_DIFFERENCE = 0.01  # of the block's outputs, root mean square; both round to bfloat16 (epsilon 0.008) on the way
GROUPED_MM = "grouped_mm"

BLOCK, TAIL = "moe_block", "moe_block_tail"
WANTED_SPEEDUP = {1024: 1.12, 8192: 1.35}  # of the block, by tokens
RESULTS = Path(__file__).resolve().parent / "results" / "moe_block.csv"


class WrongResult(RuntimeError):
    """What was to be timed does not compute what it should."""


@dataclass(frozen=True)
class Comparison:
    """The block or its tail at one token count: microseconds per call, without and with moe_cute."""

    part: str
    tokens: int
    peer: str
    before: Sample
    after: Sample

    @property
    def speedup(self) -> float:
        return self.before.median_us / self.after.median_us

    def records(self) -> Iterator[Record]:
        epilogue = "unpermute_weighted" if self.part == TAIL else "block"
        for provider, sample in ((self.peer, self.before), (OURS, self.after)):
            record = Record(self.part, "cold", provider, DTYPE, TOPK, HIDDEN, self.tokens, "contiguous", epilogue)
            yield replace(record, median_us=sample.median_us, p20_us=sample.p20_us, p80_us=sample.p80_us)


def main(
    tokens: Annotated[str, typer.Option(help="Comma-separated token counts.")] = "1,64,1024,8192",
    out: Annotated[Path, typer.Option(help="The CSV.")] = RESULTS,
    revision: Annotated[str, typer.Option(help="The project's revision, where there is no repository to ask.")] = "",
) -> None:
    """Time the block and its tail in CUDA graphs on the current GPU."""
    counts = _parse_counts(tokens)
    if not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA device, and the block is timed in CUDA graphs")
    device = torch.device("cuda", torch.cuda.current_device())
    header = environment.describe(device, revision or None) | {"transformers": transformers.__version__}
    console = Console()
    out.parent.mkdir(parents=True, exist_ok=True)
    comparisons = []
    with out.open("w", encoding="utf-8") as file, torch.inference_mode():
        writer = Writer(file, header)
        block = make_block(device)
        for count in track(counts, "token counts", console=console, transient=True, disable=not console.is_terminal):
            for comparison in (compare_blocks(block, count, device), compare_tails(count, device)):
                writer.write(comparison.records())
                comparisons.append(comparison)
    for key, value in header.items():
        console.print(f"{key}: {value}", highlight=False, markup=False)
    console.print(table(comparisons))
    console.print(f"results: {out}", highlight=False)


def make_block(device: torch.device) -> Qwen3MoeSparseMoeBlock:
    """A block with random weights: the router spreads random tokens over all experts."""
    config = transformers.Qwen3MoeConfig(
        hidden_size=HIDDEN,
        num_experts=EXPERTS,
        moe_intermediate_size=INTERMEDIATE,
        num_experts_per_tok=TOPK,
        norm_topk_prob=True,
    )
    with device:
        block = Qwen3MoeSparseMoeBlock(config).to(getattr(torch, DTYPE))
    for parameter in block.parameters():
        parameter.normal_(std=WEIGHT_STD)
    return block


def compare_blocks(block: Qwen3MoeSparseMoeBlock, tokens: int, device: torch.device) -> Comparison:
    """Time the block with transformers' own experts and with moe_cute's.

    Raises:
        WrongResult: the two differ by more than rounding.
    """
    batches = list(torch.randn(BATCHES, 1, tokens, HIDDEN, dtype=getattr(torch, DTYPE), device=device))
    calls = {name: _with_experts(block, name) for name in (GROUPED_MM, register())}
    expected, actual = (call(batches[0]).double() for call in calls.values())
    difference = float((actual - expected).norm() / expected.norm())
    if not difference <= ALLOWED_DIFFERENCE:
        raise WrongResult(f"block of {tokens} tokens: differs by {difference:.2%}, allowed {ALLOWED_DIFFERENCE:.0%}")
    bytes_read = min(tokens * TOPK, EXPERTS) * 3 * HIDDEN * INTERMEDIATE * batches[0].itemsize
    before, after = measure_cold(calls, batches, bytes_read).values()
    return Comparison(BLOCK, tokens, GROUPED_MM, before, after)


def compare_tails(tokens: int, device: torch.device) -> Comparison:
    """Time what the two do with the experts' rows after the last GEMM.

    Raises:
        WrongResult: one of them is wrong.
    """
    case = Case(DTYPE, TOPK, HIDDEN, tokens, epilogue="unpermute_weighted")
    operands = [_routed_as_qwen3(each) for each in rotating_operands(case, device)]
    calls = {provider.name: provider.prepare(case, operands, 1.0) for provider in (Transformers(), MoeCute())}
    for name, call in calls.items():
        error = find_error(call, case, operands[-1], 1.0)
        if error:
            raise WrongResult(f"tail of {tokens} tokens, {name}: {error}")
    before, after = measure_cold(calls, operands, case.bytes_moved).values()
    return Comparison(TAIL, tokens, TRANSFORMERS, before, after)


def table(comparisons: Sequence[Comparison]) -> Table:
    """One line for each token count."""
    result = Table(title="Qwen3-30B-A3B-sized block and its tail, median µs in a CUDA graph", title_justify="left")
    result.add_column("tokens", justify="right")
    for name in ("block", "moe_cute", "speedup", "tail", "moe_cute", "speedup"):
        result.add_column(name, justify="right")
    result.add_column("block's bound")
    parts = {(each.part, each.tokens): each for each in comparisons}
    for tokens in dict.fromkeys(each.tokens for each in comparisons):
        cells = [_cells(parts[part, tokens]) for part in (BLOCK, TAIL)]
        result.add_row(str(tokens), *cells[0], *cells[1], _verdict(parts[BLOCK, tokens]))
    return result


def _cells(comparison: Comparison) -> list[str]:
    times = [f"{sample.median_us:.1f}" for sample in (comparison.before, comparison.after)]
    return [*times, rounded_down(comparison.speedup, 2)]


def _verdict(block: Comparison) -> str:
    wanted = WANTED_SPEEDUP.get(block.tokens)
    if wanted is None:
        return ""
    return f"[green]{wanted}: holds[/]" if block.speedup >= wanted else f"[red]{wanted}: fails[/]"


def _with_experts(block: Qwen3MoeSparseMoeBlock, implementation: str) -> Callable[[Tensor], Tensor]:
    def call(hidden_states: Tensor) -> Tensor:
        block.experts.config._experts_implementation = implementation
        result: Tensor = block(hidden_states)
        return result

    return call


def _routed_as_qwen3(operands: Operands) -> Operands:
    """Its router hands out weights in the model's dtype."""
    assert operands.topk_weights is not None and operands.sorted_weights is not None
    dtype = operands.input.dtype
    return replace(
        operands, topk_weights=operands.topk_weights.to(dtype), sorted_weights=operands.sorted_weights.to(dtype)
    )


def _parse_counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"{text!r} is not a comma-separated list of positive numbers", param_hint="--tokens")
    return counts


if __name__ == "__main__":
    typer.run(main)
