"""One call of sum_reduce: its operands, its result by the reference, and the run that is held against it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import moe_cute
from tests import reference
from tests.memory import Canvas, placed_input, poisoned_output
from tests.reference import assert_same_bits

SCALE = 2.5  # no power of two, so that a scale applied twice, or after rounding, changes bits

Keywords = dict[str, Any]  # Tensors by their argument's name: not typed so, for `**` to pass them on


@dataclass(frozen=True)
class Fusion:
    """What a call has beside the plain sum."""

    weights: str | None = None  # "float32", or "input": of the input's dtype
    ids: str | None = None  # "ids", or "map": with an expert_map
    rows: torch.dtype | None = None  # of inv_permuted_idx
    shared: str | None = None  # "own", or "output": the output itself
    out_dtype: torch.dtype | None = None
    live_tokens: int | None = None


PLAIN = Fusion()
# One that uses each epilogue to the full.
FULLEST = {
    "plain": PLAIN,
    "weighted": Fusion(weights="float32", shared="own"),
    "permuted": Fusion(weights="float32", rows=torch.int32, shared="own"),
    "routed": Fusion(weights="float32", ids="map", rows=torch.int32, shared="own", live_tokens=2),
}


@dataclass(frozen=True)
class Call:
    """Operands on the CPU, contiguous; the layouts say where a run puts them."""

    input: Tensor
    tokens: int
    fusion: Fusion = PLAIN
    tensors: Keywords = field(default_factory=dict)
    scale: float = SCALE

    @property
    def hidden(self) -> int:
        return self.input.shape[-1]

    @property
    def out_dtype(self) -> torch.dtype:
        return self.fusion.out_dtype or self.input.dtype

    @property
    def live_tokens(self) -> int:
        live = self.fusion.live_tokens
        return self.tokens if live is None else min(max(live, 0), self.tokens)

    def expected(self) -> Tensor:
        """Rows of the live tokens."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if name != "num_tokens"}
        result = reference.sum_reduce(self.input, self.scale, **tensors, out_dtype=self.out_dtype)
        return result[: self.live_tokens]

    def place(
        self, device: torch.device | str, input_layout: str = "contiguous", output_layout: str = "contiguous"
    ) -> tuple[tuple[Tensor, Tensor, float], Keywords, Canvas]:
        """Positional and keyword arguments of a run, and the poisoned memory that its output lies in."""
        input = placed_input(input_layout, self.input, device) if self.input.dim() == 3 else self.input.to(device)
        out = poisoned_output(output_layout, self.tokens, self.hidden, self.out_dtype, device)
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        if self.fusion.shared == "output":
            tensors["shared_output"] = out.view.copy_(tensors["shared_output"])
        return (input, out.view, self.scale), tensors, out

    def run(self, device: torch.device | str, variant: str | None = None, **layouts: str) -> Tensor:
        """Runs into a poisoned output, checks that it wrote its live rows and nothing else, and returns those."""
        arguments, tensors, out = self.place(device, **layouts)
        returned = moe_cute.sum_reduce(*arguments, **tensors, variant=variant)
        assert returned is out.view
        out.assert_written_inside_only(rows=self.tokens if self.fusion.shared == "output" else self.live_tokens)
        return out.view[: self.live_tokens]

    def check(self, device: torch.device | str, variant: str | None = None, **layouts: str) -> None:
        """Runs, and holds the result against the reference."""
        context = (variant, self.fusion, tuple(self.input.shape), layouts)
        assert_same_bits(self.run(device, variant, **layouts), self.expected(), context)


def plain_call(tokens: int, topk: int, hidden: int, dtype: torch.dtype, rng: torch.Generator) -> Call:
    return Call(random_values((tokens, topk, hidden), dtype, rng), tokens)


def fused_call(fusion: Fusion, tokens: int, topk: int, hidden: int, dtype: torch.dtype, rng: torch.Generator) -> Call:
    """Every row that must not be read holds NaN."""
    live = torch.ones(tokens, topk, dtype=torch.bool)
    tensors: Keywords = {}
    if fusion.weights is not None:
        weights_dtype = torch.float32 if fusion.weights == "float32" else dtype
        tensors["topk_weights"] = random_values((tokens, topk), weights_dtype, rng)
    if fusion.ids is not None:
        tensors["topk_ids"], local = _random_ids(tokens, topk, rng)
        if fusion.ids == "map":
            tensors["expert_map"], local = _random_map(tensors["topk_ids"], rng)
        live &= local
    if fusion.rows is None:
        input = random_values((tokens, topk, hidden), dtype, rng).masked_fill(~live[..., None], torch.nan)
    else:
        rows = tokens * topk + 3
        index = torch.randint(-2, rows + 3, (tokens, topk), generator=rng)
        tensors["inv_permuted_idx"] = index.to(fusion.rows)
        wanted = torch.zeros(rows, dtype=torch.bool)
        wanted[index[live & (index >= 0) & (index < rows)]] = True
        input = random_values((rows, hidden), dtype, rng).masked_fill(~wanted[:, None], torch.nan)
    if fusion.shared is not None:
        tensors["shared_output"] = random_values((tokens, hidden), fusion.out_dtype or dtype, rng)
    if fusion.live_tokens is not None:
        tensors["num_tokens"] = torch.tensor([fusion.live_tokens], dtype=torch.int32)
    return Call(input, tokens, fusion, tensors)


def random_values(shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng, dtype=reference.accumulator_of(dtype)).to(dtype)


_EXPERTS = 5  # few, so that every kind of slot turns up in a small call


def _random_ids(tokens: int, topk: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids, some negative and some past the end of a map of _EXPERTS; and which are not negative."""
    ids = torch.randint(-2, _EXPERTS + 2, (tokens, topk), generator=rng)
    return ids.to(torch.int64 if int(ids.sum()) % 2 else torch.int32), ids >= 0


def _random_map(ids: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    expert_map = torch.randint(-1, 2, (_EXPERTS,), generator=rng, dtype=torch.int32)
    in_map = (ids >= 0) & (ids < _EXPERTS)
    return expert_map, in_map & (expert_map[ids.clamp(0, _EXPERTS - 1).long()] >= 0)
