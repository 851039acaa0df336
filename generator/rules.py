"""Which combinations of a spec's lists are worth a kernel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from generator.spec import Spec, wide_widths
from generator.variant import Variant
from generator.vocabulary import DTYPES, BackendName, DTypeName, EpilogueName

Size = int | Literal["any"]
Sizes = Callable[[list[Size]], list[int | None]]
Widths = Callable[[DTypeName, list[int]], list[int]]

CPU_CACHE_LINE_BYTES = 64


def every_size(sizes: list[Size]) -> list[int | None]:
    return [None if size == "any" else size for size in sizes]


def numbers(sizes: list[Size]) -> list[int | None]:
    return [size for size in every_size(sizes) if size is not None]


def up_to_20(sizes: list[Size]) -> list[int | None]:
    return [size for size in numbers(sizes) if size is not None and size <= 20]


def run_time_only(sizes: list[Size]) -> list[int | None]:
    return [None]


def every_width(dtype: DTypeName, widths: list[int]) -> list[int]:
    return widths


def two_widest_and_one(dtype: DTypeName, widths: list[int]) -> list[int]:
    return sorted({*sorted(widths)[-2:], 1})


def two(dtype: DTypeName, widths: list[int]) -> list[int]:
    return [width for width in widths if width == 2 and 2 * DTYPES[dtype].bytes <= 8]


def four_halves(dtype: DTypeName, widths: list[int]) -> list[int]:
    return [width for width in widths if width == 4 and DTYPES[dtype].bytes == 2]


def two_and_eight(dtype: DTypeName, widths: list[int]) -> list[int]:
    return [width for width in widths if width in (2, 8)]


def two_or_8_bytes(dtype: DTypeName, widths: list[int]) -> list[int]:
    return [width for width in widths if width == 2 or 1 < width == 8 // DTYPES[dtype].bytes]


def cache_line(dtype: DTypeName, widths: list[int]) -> list[int]:
    return [CPU_CACHE_LINE_BYTES // DTYPES[dtype].bytes]


@dataclass(frozen=True)
class Rule:
    """The product of what each selector keeps of its list in the spec."""

    backend: BackendName
    epilogues: tuple[EpilogueName, ...]
    hidden: Sizes
    topk: Sizes
    vector_widths: Widths
    unaligned: bool = False  # vectors that may start anywhere


PLAIN: tuple[EpilogueName, ...] = ("plain",)
FUSED: tuple[EpilogueName, ...] = ("weighted", "permuted")
ROUTED: tuple[EpilogueName, ...] = ("routed",)

RULES = (
    # Any call finds one of these. The best width depends on its alignment and its number of tokens: all are made.
    Rule("cuda", PLAIN + FUSED, run_time_only, every_size, every_width),
    # Rows that start anywhere. Two elements, each in a load of its own, serve calls of few tokens, and four halves,
    # shifted into place, those of many. On an H200, an input offset by one element, bfloat16 and 8 experts, by one, two
    # and four elements: [1, 2048] 0.98, 0.79 and 0.84 us, [64, 2048] 1.70, 1.40 and 1.8, [1024, 2048] 11.7, 11.0 and
    # 9.7, permuted and weighted 19.5, 13.4 and 11.8; with 2 experts [1024, 4095] 20.2, 10.5 and 7.2. Eight were slower
    # than four ([1024, 2048] 9.9, [1024, 2, 4095] 17.8), since the output is stored element by element; four of
    # float32, shifted, than two ([64, 2048] 2.09 and 2.06, [700, 7, 2047] 16.0 and 11.6).
    Rule("cuda", PLAIN + FUSED, run_time_only, numbers, two, unaligned=True),
    # Each row takes two words and what they are shifted into: 22 rows spill from the 128 registers of a plain kernel.
    Rule("cuda", PLAIN + FUSED, run_time_only, up_to_20, four_halves, unaligned=True),
    # Where topk is looped over, wide vectors share the loop: bfloat16 [700, 5, 4097] took 15.6 us by two elements, 12.1
    # by four and 10.4 by eight, weighted 26.4, 15.9 and 14.5; but not where rows are looked up too. A single element of
    # float64 is 8 bytes already, [64, 8, 4096] took 5.6 by ones and 6.6 by twos; but [300, 3, 2879] 9.4 and 7.4, [500,
    # 5, 2047] 13.3 and 12.1.
    Rule("cuda", ("plain", "weighted"), run_time_only, run_time_only, two_and_eight, unaligned=True),
    Rule("cuda", ("permuted",), run_time_only, run_time_only, two_or_8_bytes, unaligned=True),
    # With every stride a constant, the first load leaves earlier. On an H200, behind an ordinary kernel in a graph,
    # bfloat16 [1, 6, 2048] took 1.40 us in place of 1.44, and [16, 6, 2048] 1.50 in place of 1.56; where launches
    # overlap, it is hidden. That earns neither a loop over topk nor loads of 2 bytes, which serve odd strides;
    # and where there are slots to look up, these outweigh it.
    Rule("cuda", PLAIN, numbers, numbers, wide_widths),
    # The rare calls: what they look up for each slot hides the width that small calls would like better, but for 8-byte
    # vectors where few of many tokens are live: on an H100, 64 of 8192 by [8, 2048] took 2.05 us with 16 bytes and 1.96
    # with 8, by [8, 7168] 5.2 and 4.0.
    Rule("cuda", ROUTED, run_time_only, every_size, two_widest_and_one),
    # One vector is a cache line, in the registers that there are, and single elements sum the rest of a row. The spec's
    # widths do not matter here: they are about loads of a GPU.
    Rule("cpu", PLAIN, run_time_only, every_size, cache_line),
    # The slots that take part are looked up once for a row, and are any number of them: one loop serves all.
    Rule("cpu", FUSED + ROUTED, run_time_only, run_time_only, cache_line),
)


def variants(spec: Spec) -> list[Variant]:
    """Every kernel that the spec asks for and a rule makes, the best first among those that accept the same call."""
    made = (variant for rule in RULES for variant in _made_by(rule, spec))
    return sorted(made, key=lambda variant: variant.priority)


def _made_by(rule: Rule, spec: Spec) -> Iterator[Variant]:
    instruction_sets = spec.backends.cpu.instruction_sets if rule.backend == "cpu" else [None]
    for dtype, widths in spec.vector_widths.items():
        for epilogue, hidden, topk, width, instruction_set in product(
            [epilogue for epilogue in spec.epilogues if epilogue in rule.epilogues],
            rule.hidden(spec.hidden_sizes),
            rule.topk(spec.topk),
            rule.vector_widths(dtype, widths),
            instruction_sets,
        ):
            if (hidden or 0) % width == 0:
                yield Variant(rule.backend, dtype, hidden, topk, width, instruction_set, epilogue, rule.unaligned)
