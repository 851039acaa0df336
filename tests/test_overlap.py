"""An output needs memory of its own: each element one place, none of them the input's."""

import math

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.memory import canvas
from tests.refusals import HIDDEN, TOKENS, TOPK, Arguments, good, refused

OVERLAPS_INPUT = (ValueError, "output", "memory that the input also uses", "memory of its own")
OVERLAPS_ITSELF = (ValueError, "output", "share memory", "one place in memory for each element")
OVERLAPS_SHARED = (
    ValueError,
    "shared_output",
    "part of the output's memory",
    "the output itself, or memory of its own",
)

EXPANDED = [(0, 1), (8, 0), (0, 0)]
OVERLAPPING = [(7, 1), (1, 1), (2, 1), (6, 4), (1, 2)]  # of [3, 8]: 2 x 6 = 3 x 4, for one
INTERLEAVED = [(8, 1), (9, 1), (1, 3), (1, 4), (5, 3), (3, 5), (16, 2)]


def places(view: Tensor) -> list[int]:
    index = torch.arange(view.untyped_storage().nbytes() // view.element_size())
    return index.as_strided(view.shape, view.stride(), view.storage_offset()).flatten().tolist()


@pytest.mark.parametrize("strides", EXPANDED + OVERLAPPING, ids=str)
def test_output_over_itself(device: torch.device, strides: tuple[int, int]) -> None:
    arguments, _ = good(device)
    out = canvas((TOKENS, HIDDEN), torch.bfloat16, device, strides)
    assert len(set(places(out.view))) < TOKENS * HIDDEN
    refused(arguments | {"output": out.view}, *OVERLAPS_ITSELF)
    out.assert_untouched()


@pytest.mark.parametrize("strides", INTERLEAVED, ids=str)
def test_output_whose_rows_interleave(device: torch.device, strides: tuple[int, int]) -> None:
    arguments, _ = good(device)
    out = canvas((TOKENS, HIDDEN), torch.bfloat16, device, strides)
    assert len(set(places(out.view))) == TOKENS * HIDDEN
    moe_cute.sum_reduce(arguments["input"], out.view)
    out.assert_written_inside_only()


def test_any_strides_of_the_output(rng: torch.Generator) -> None:
    """Refused if two elements share a place, and only then."""
    outcomes = set()
    for _ in range(500):
        tokens, hidden, *strides = torch.randint(1, 12, (4,), generator=rng).tolist()
        out = canvas((tokens, hidden), torch.float32, strides=strides)
        arguments: Arguments = {"input": torch.zeros(tokens, 2, hidden), "output": out.view}
        overlaps = len(set(places(out.view))) < tokens * hidden
        outcomes.add(overlaps)
        if overlaps:
            refused(arguments, *OVERLAPS_ITSELF)
        else:
            moe_cute.sum_reduce(**arguments)
            out.assert_written_inside_only()
    assert outcomes == {True, False}


def test_any_place_of_the_output_near_the_input(rng: torch.Generator) -> None:
    """Never written where the input lies."""
    refusals = 0
    for _ in range(500):
        tokens, topk, hidden, gap = torch.randint(1, 6, (4,), generator=rng).tolist()
        buffer = torch.zeros(600)
        rows = buffer.as_strided((tokens, topk, hidden), (topk * hidden + gap, hidden, 1), 100)
        start = int(torch.randint(0, 300, (), generator=rng))
        output = buffer.as_strided((tokens, hidden), (topk * hidden + gap, 1), start)
        if set(places(rows)) & set(places(output)):
            refused({"input": rows, "output": output}, *OVERLAPS_INPUT)
            refusals += 1
        else:  # rows as far apart as the input's fit between them
            moe_cute.sum_reduce(rows, output)
    assert 0 < refusals < 500


@pytest.mark.parametrize("start", [19, 20, 44, 67])  # of 24 elements; the input is [20, 68)
def test_output_over_part_of_the_input(device: torch.device, start: int) -> None:
    buffer = torch.ones(100, dtype=torch.bfloat16, device=device)
    input, output = buffer[20:68].view(TOKENS, TOPK, HIDDEN), buffer[start : start + 24].view(TOKENS, HIDDEN)
    refused({"input": input, "output": output}, *OVERLAPS_INPUT)
    assert bool((buffer == 1).all())


def test_output_over_a_slot(device: torch.device) -> None:
    """What a careless reduction in place would do."""
    input = torch.ones(TOKENS, TOPK, HIDDEN, dtype=torch.bfloat16, device=device)
    for slot in range(TOPK):
        refused({"input": input, "output": input[:, slot]}, *OVERLAPS_INPUT)
    assert bool((input == 1).all())


def test_output_beside_the_input(device: torch.device) -> None:
    """Right before it, right after it, and as another column slice of the same buffer."""
    buffer = torch.ones(96, dtype=torch.bfloat16, device=device)
    columns = torch.ones(TOKENS, 40, dtype=torch.bfloat16, device=device)
    input = buffer[24:72].view(TOKENS, TOPK, HIDDEN)
    sliced = columns[:, 8:24].unflatten(1, (TOPK, HIDDEN))
    for each, output in [
        (input, buffer[:24].view(TOKENS, HIDDEN)),
        (input, buffer[72:].view(TOKENS, HIDDEN)),
        (sliced, columns[:, :8]),
        (sliced, columns[:, 24:32]),
        (sliced, columns[:, 32:]),
    ]:
        moe_cute.sum_reduce(each, output)
        assert bool((output == TOPK).all())
    assert bool((input == 1).all())
    assert bool((sliced == 1).all())


def test_shared_output_over_part_of_the_output(device: torch.device) -> None:
    buffer = torch.ones(64, dtype=torch.bfloat16, device=device)
    arguments, _ = good(device)
    arguments["output"] = buffer[:24].view(TOKENS, HIDDEN)
    refused(arguments | {"shared_output": buffer[8:32].view(TOKENS, HIDDEN)}, *OVERLAPS_SHARED)
    reordered = buffer[:24].as_strided((TOKENS, HIDDEN), (1, 3))  # the same places
    refused(arguments | {"shared_output": reordered}, *OVERLAPS_SHARED)
    assert bool((buffer == 1).all())


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("topk_weights", torch.float32, (TOKENS, TOPK)),
        ("topk_ids", torch.int64, (TOKENS, TOPK)),
        ("expert_map", torch.int32, (4,)),
        ("inv_permuted_idx", torch.int32, (TOKENS, TOPK)),
        ("num_tokens", torch.int32, ()),
    ],
)
def test_output_over_what_else_is_read(
    device: torch.device, name: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    arguments, _ = good(device)
    buffer = torch.zeros(96, dtype=torch.uint8, device=device)
    arguments["output"] = buffer[:48].view(torch.bfloat16).view(TOKENS, HIDDEN)
    if name == "expert_map":
        arguments["topk_ids"] = torch.zeros(TOKENS, TOPK, dtype=torch.int32, device=device)
    if name == "inv_permuted_idx":
        arguments["input"] = arguments["input"].flatten(0, 1)
    bytes_read = math.prod(shape) * dtype.itemsize
    overlapping, beside = (buffer[start : start + bytes_read].view(dtype).view(shape) for start in (40, 48))
    refused(arguments | {name: overlapping}, ValueError, "output", f"memory that {name} also uses", "memory of its own")
    assert bool((buffer == 0).all())
    moe_cute.sum_reduce(**arguments, **{name: beside})
