"""Any tokens, topk and hidden: the grid, by the variant that is chosen for each."""

import pytest
import torch

import moe_cute
from tests.calls import plain_call
from tests.memory import canvas
from tests.reference import FLOATS, assert_same_bits, sum_reduce

TOPKS = [
    *range(12),  # 0: an empty sum; specialised ones, and those between and just past them
    16,  # a whole number of chunks
    33,  # many chunks and one over
]
HIDDEN_SIZES = [
    0,  # nothing to write
    1,  # where a stride means nothing
    7,  # less than one vector of any width
    *range(112, 128),  # every residue of 16, and whole vectors of every backend before it
]
TOKENS = [
    0,  # a launch of nothing
    1,  # no token stride is used
    2,
    5,  # odd
]


@pytest.mark.parametrize("topk", TOPKS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_small(device: torch.device, dtype: torch.dtype, topk: int, rng: torch.Generator) -> None:
    for hidden in HIDDEN_SIZES:
        whole = plain_call(max(TOKENS), topk, hidden, dtype, rng)
        expected = whole.expected()
        for tokens in TOKENS:
            input = whole.input[:tokens].to(device)
            out = canvas((tokens, hidden), dtype, device)
            moe_cute.sum_reduce(input, out.view, whole.scale)
            out.assert_written_inside_only()
            assert_same_bits(out.view, expected[:tokens], (tokens, hidden))


@pytest.mark.parametrize("tokens", [65_535, 65_536, 65_537, 131_073])  # the limit of a grid's second dimension
@pytest.mark.parametrize("hidden", [1, 3, 16])
def test_many_tokens(device: torch.device, tokens: int, hidden: int, rng: torch.Generator) -> None:
    plain_call(tokens, 2, hidden, torch.bfloat16, rng).check(device)


def test_long_rows(device: torch.device, rng: torch.Generator) -> None:
    # Longer than what one task of the CPU takes of a row, with a ragged end; fewer tokens than threads, and more.
    for tokens in (1, 2, 9):
        plain_call(tokens, 3, 3 * 8192 + 77, torch.bfloat16, rng).check(device)


def test_results_larger_than_the_cache(device: torch.device, rng: torch.Generator) -> None:
    # The CPU writes these past its caches, where rows are aligned; both layouts, since one of them is.
    for layout in ("contiguous", "column_slice_odd"):
        plain_call(1500, 2, 2048, torch.float32, rng).check(device, output_layout=layout)


@pytest.mark.parametrize("start", [0, 1])  # vectors, and single elements
def test_offsets_past_31_bits(device: torch.device, start: int, rng: torch.Generator) -> None:
    """Rows so far apart that the last starts past 2^31 elements. No memory between them is ever touched."""
    call = plain_call(3, 2, 72, torch.bfloat16, rng)
    apart = 2**29 + 24
    buffer = torch.empty(6 * apart, dtype=torch.bfloat16, device=device)
    input = buffer.as_strided((3, 2, 72), (2 * apart, apart, 1), start).copy_(call.input)
    assert_same_bits(moe_cute.sum_reduce(input, None, call.scale), call.expected())
    output = buffer.as_strided((3, 72), (5 * apart // 2, 1), start)
    moe_cute.sum_reduce(call.input.to(device), output, call.scale)
    assert_same_bits(output, call.expected())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_makes_its_output(device: torch.device, dtype: torch.dtype, rng: torch.Generator) -> None:
    input = plain_call(3, 2, 40, dtype, rng).input
    output = moe_cute.sum_reduce(input.to(device))
    assert output.is_contiguous()
    assert output.device.type == device.type
    assert_same_bits(output, sum_reduce(input))
