"""An output needs memory of its own: each element one place, none of them the input's."""

import math
from collections import Counter
from time import perf_counter

import pytest
import torch
from torch import Tensor

import moe_cute
from moe_cute._extension import _C
from tests.memory import canvas
from tests.reference import CHANGES_OF_DTYPE
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

STRIDES = [0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24]  # many that share divisors, as those of slices do


def places(view: Tensor) -> list[int]:
    index = torch.arange(view.untyped_storage().nbytes() // view.element_size())
    return index.as_strided(view.shape, view.stride(), view.storage_offset()).flatten().tolist()


def bytes_of(view: Tensor) -> set[int]:
    size = view.element_size()
    return {place * size + byte for place in places(view) for byte in range(size)}


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


@pytest.mark.parametrize(("dtype", "out_dtype"), [(torch.float32, torch.float32), *CHANGES_OF_DTYPE], ids=str)
def test_any_two_views_of_one_buffer(dtype: torch.dtype, out_dtype: torch.dtype, rng: torch.Generator) -> None:
    """Refused if the output has a byte in common with the input or shared_output, and only then."""
    buffer = torch.zeros(300, dtype=torch.float64)

    def any_view(dtype: torch.dtype, *sizes: int) -> Tensor:
        strides = [STRIDES[int(torch.randint(len(STRIDES), (), generator=rng))] for _ in sizes]
        return buffer.view(dtype).as_strided(sizes, strides, int(torch.randint(40, (), generator=rng)))

    outcomes: Counter[str] = Counter()
    while min(outcomes[name] for name in ("overlaps", "interleaves", "lies apart")) < 100:
        tokens, topk, hidden = torch.randint(1, 5, (3,), generator=rng).tolist()
        output = any_view(out_dtype, tokens, hidden)
        input, shared = any_view(dtype, tokens, topk, hidden), any_view(out_dtype, tokens, hidden)
        written = bytes_of(output)
        if len(written) < tokens * hidden * out_dtype.itemsize or written == bytes_of(shared):
            continue  # over itself, or perhaps the output itself
        elsewhere: Arguments = {"input": torch.zeros(tokens, topk, hidden, dtype=dtype), "shared_output": shared}
        for arguments, read, error in (
            ({"input": input}, bytes_of(input), OVERLAPS_INPUT),
            (elsewhere, bytes_of(shared), OVERLAPS_SHARED),
        ):
            if written & read:
                refused(arguments | {"output": output}, *error)
                outcomes["overlaps"] += 1
            else:
                moe_cute.sum_reduce(**arguments, output=output)
                apart = max(read) < min(written) or max(written) < min(read)
                outcomes["lies apart" if apart else "interleaves"] += 1


def test_views_that_interleave(device: torch.device) -> None:
    """What slices and transposes of one buffer make, each without an element in common."""

    def zeros(*sizes: int) -> Tensor:
        return torch.zeros(sizes, device=device)

    columns, pairs, slots, rows, blocks = zeros(8, 20), zeros(4, 8, 2), zeros(4, 3, 8), zeros(1, 2, 16), zeros(4, 16)
    for input, output, shared in [
        (zeros(4, 2, 8), columns[:, :4].t(), columns[:, 4:8].t()),
        (zeros(4, 2, 8), pairs[..., 0], pairs[..., 1]),
        (slots[:, ::2], slots[:, 1], None),
        (rows[:, :, :8], rows[:, 0, 8:], None),
        (zeros(2, 2, 8), blocks[::2, :8], blocks[1:3, 8:]),
        (blocks[1:, None, :8][:, :0], blocks[:3, :8], None),  # no elements, in the midst of the output
    ]:
        input.add_(1)
        moe_cute.sum_reduce(input, output, shared_output=shared)
        assert bool((output == input.shape[1]).all())
        assert bool((input == 1).all())


def test_strides_at_odds_with_each_other() -> None:
    """Whether one of so many elements is the output's too would take long to find out: refused instead, and soon."""
    many, far = 100_000, 10**12
    input = ((many, many, 1), (far + 39, far + 61, 1), "float32", "cpu", 0, 1 << 50)
    output = ((many, 1), (far + 63, 1), "float32", "cpu", 0, (1 << 50) + 2 * many * far)
    started = perf_counter()
    with pytest.raises(ValueError, match=r"^output: was in memory that the input also uses"):
        _C.check(input, output, *[None] * 6, 1.0)
    assert perf_counter() - started < 1


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
