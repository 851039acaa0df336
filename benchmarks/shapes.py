"""What is measured: the grids, as data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

WEIGHT_BYTES = 4  # topk_weights are float32
INDEX_BYTES = 4  # inv_permuted_idx is int32

EPILOGUES = (
    "plain",
    "weighted",
    "weighted_shared",
    "unpermute_weighted",
    "unpermute_weighted_shared",
    "half_skipped",  # unpermute_weighted, every token with half its slots skipped
    "live_64",  # weighted, launched at capacity with a device-side count of 64 live tokens
)
LAYOUTS = (
    "contiguous",
    "offset",  # contiguous, but the first element is one element past an aligned address
    "padded_rows",  # a slice of wider rows, each row aligned
)
LIVE_TOKENS = 64


@dataclass(frozen=True)
class Case:
    """One point of a grid: `input [tokens, topk, hidden]` of `dtype`, a memory layout of it, and an epilogue."""

    dtype: str
    topk: int
    hidden: int
    tokens: int
    layout: str = "contiguous"
    epilogue: str = "plain"

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def live_tokens(self) -> int:
        return min(LIVE_TOKENS, self.tokens) if self.epilogue == "live_64" else self.tokens

    @property
    def weighted(self) -> bool:
        return self.epilogue != "plain"

    @property
    def unpermuted(self) -> bool:
        return self.epilogue.startswith("unpermute") or self.epilogue == "half_skipped"

    @property
    def shared(self) -> bool:
        return self.epilogue.endswith("shared")

    @property
    def slots_read(self) -> int:
        """Rows of the input read for each token."""
        return self.topk - self.topk // 2 if self.epilogue == "half_skipped" else self.topk

    @property
    def bytes_moved(self) -> int:
        """The fewest bytes that must move: everything needed read once, the output written once."""
        rows = self.slots_read + 1 + self.shared
        per_slot = WEIGHT_BYTES * self.weighted + INDEX_BYTES * self.unpermuted
        return self.live_tokens * (rows * self.hidden * self.torch_dtype.itemsize + self.topk * per_slot)

    def __str__(self) -> str:
        extras = [extra for extra in (self.layout, self.epilogue) if extra not in ("contiguous", "plain")]
        return " ".join([self.dtype, f"[{self.tokens}, {self.topk}, {self.hidden}]", *extras])


def _cases(dtype: str, shapes: tuple[tuple[int, int], ...], tokens: tuple[int, ...]) -> tuple[Case, ...]:
    return tuple(Case(dtype, topk, hidden, count) for (topk, hidden), count in product(shapes, tokens))


#                 topk, hidden
MODEL_SHAPES = (
    (8, 2048),  # Qwen3-30B-A3B
    (8, 7168),  # DeepSeek-V3, Kimi K2
    (6, 2048),  # DeepSeek-V2-Lite
    (10, 4096),
    (4, 2880),  # gpt-oss
    (9, 7168),  # DeepSeek-V3 with the shared expert appended
    (2, 4096),  # Mixtral 8x7B, Phi-3.5-MoE
)

MAIN = _cases("bfloat16", MODEL_SHAPES, (1, 4, 16, 64, 256, 1024, 8192)) + tuple(
    case for dtype in ("float16", "float32", "float64") for case in _cases(dtype, ((8, 4096),), (1, 64, 1024))
)

# Never tuned to. What the tuned grid leaves out: topk without an unrolled kernel, token counts between its own, hidden
# sizes that no vector width divides, that only a narrow one does, or that leave 8 of 16 elements over; fused sums of
# other than eight slots.
OUTSIDE = (
    *_cases("bfloat16", ((3, 2048),), (2, 100)),
    *_cases("bfloat16", ((5, 4096),), (33, 700)),
    *_cases("bfloat16", ((7, 7168),), (7, 300)),
    *_cases("bfloat16", ((12, 2048),), (7, 3000)),
    *_cases("bfloat16", ((8, 5120),), (2, 33, 300, 3000)),
    *_cases("bfloat16", ((8, 2047),), (7, 700)),
    *_cases("bfloat16", ((6, 2050),), (33, 3000)),
    *_cases("bfloat16", ((8, 2056),), (100, 700)),
    *_cases("float16", ((5, 3072),), (2, 300)),
    *_cases("float32", ((7, 2047),), (33, 700)),
    *_cases("float64", ((3, 2880),), (7, 300)),
    *(
        Case("bfloat16", topk, hidden, tokens, epilogue=epilogue)
        for (topk, hidden), tokens, epilogue in product(
            ((1, 5120), (3, 4096), (6, 2048)), (40, 500), ("weighted", "unpermute_weighted")
        )
    ),
)

LAYOUT = tuple(
    Case("bfloat16", topk, hidden, 1024, layout) for (topk, hidden), layout in product(((8, 2048), (8, 7168)), LAYOUTS)
)

FUSED = tuple(
    Case("bfloat16", 8, hidden, tokens, epilogue=epilogue)
    for hidden, tokens, epilogue in product((2048, 7168), (1, 64, 1024, 8192), EPILOGUES)
    if epilogue != "live_64" or tokens == 8192
)

CPU = (
    *_cases("bfloat16", ((8, 2048),), (1, 16, 256, 2048)),
    *_cases("float32", ((8, 2048),), (1, 16, 256, 2048)),
    *_cases("bfloat16", ((8, 7168), (10, 4096), (4, 2880)), (16, 256)),
)

GRIDS: dict[str, tuple[Case, ...]] = {
    "main": MAIN,
    "outside": OUTSIDE,
    "layout": LAYOUT,
    "fused": FUSED,
    "cpu": CPU,
}

# One decode step of the smallest model shape: the call costs more than the kernel, as where an engine runs eagerly.
HOST_CASE = Case("bfloat16", 8, 2048, 1)


def quick(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """A thinned-out grid for a first look: three token counts of each shape."""
    kept = []
    for case in cases:
        counts = sorted({other.tokens for other in cases if (other.dtype, other.topk, other.hidden) == _shape(case)})
        if case.tokens in (counts[0], counts[len(counts) // 2], counts[-1]):
            kept.append(case)
    return tuple(kept)


def _shape(case: Case) -> tuple[str, int, int]:
    return case.dtype, case.topk, case.hidden
