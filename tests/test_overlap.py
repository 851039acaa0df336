"""An output needs memory of its own: each element one place, none of them the input's."""

import pytest
import torch

import moe_cute
from tests.memory import canvas
from tests.refusals import HIDDEN, TOKENS, TOPK, good, refused


def test_output_that_overlaps_itself(device: torch.device) -> None:
    arguments, _ = good(device)
    for shape, strides in [
        ((3, 8), (0, 1)),  # expanded tokens
        ((3, 8), (8, 0)),  # expanded hidden
        ((3, 8), (7, 1)),  # the last of a row is the first of the next
        ((3, 8), (1, 1)),  # windows
        ((3, 8), (2, 1)),
        ((3, 8), (6, 4)),  # 2 x 6 = 3 x 4
    ]:
        wrong = canvas(shape, torch.bfloat16, device, strides)
        refused(arguments | {"output": wrong.view}, ValueError, "output", "share memory", "one place")
        wrong.assert_untouched()


@pytest.mark.parametrize("strides", [(8, 1), (1, 3), (9, 1), (5, 3), (1, 4), (16, 2), (3, 5)], ids=str)
def test_output_that_does_not_overlap_itself(device: torch.device, strides: tuple[int, int]) -> None:
    """Legal strides, some with rows that interleave, are not refused."""
    arguments, _ = good(device)
    places = {i * strides[0] + j * strides[1] for i in range(TOKENS) for j in range(HIDDEN)}
    assert len(places) == TOKENS * HIDDEN
    out = canvas((TOKENS, HIDDEN), torch.bfloat16, device, strides)
    moe_cute.sum_reduce(arguments["input"], out.view)
    out.assert_written_inside_only()


def test_output_that_overlaps_the_input(device: torch.device) -> None:
    buffer = torch.zeros(100, dtype=torch.bfloat16, device=device)
    input = buffer[20:68].view(TOKENS, TOPK, HIDDEN)
    for start in (0, 19, 20, 44, 67):  # the ends of both, and between
        output = buffer[start : start + 24].view(TOKENS, HIDDEN)
        buffer.fill_(1.0)
        overlaps = start < 68 and start + 24 > 20
        if overlaps:
            refused(
                {"input": input, "output": output},
                ValueError,
                "output",
                "memory that the input also uses",
                "memory of its own",
            )
        else:
            moe_cute.sum_reduce(input, output)
        assert bool((buffer[20:68] == 1.0).all()), "the input has changed"
    for output in (input[:, 0], input[:, 1], input.as_strided((TOKENS, HIDDEN), (16, 1), input.storage_offset() + 5)):
        refused(
            {"input": input, "output": output},
            ValueError,
            "output",
            "memory that the input also uses",
            "memory of its own",
        )
    assert bool((buffer == buffer[20]).all())


def test_output_beside_the_input(device: torch.device, rng: torch.Generator) -> None:
    """Next to it, and between its rows as a column slice of the same buffer, there is no overlap."""
    buffer = torch.zeros(TOKENS, 40, dtype=torch.bfloat16, device=device)
    values = torch.randn(TOKENS, TOPK, HIDDEN, generator=rng).bfloat16()
    input = buffer[:, :16].unflatten(1, (TOPK, HIDDEN)).copy_(values)
    for output in (buffer[:, 16:24], buffer[:, 32:40]):
        moe_cute.sum_reduce(input, output)
        assert torch.equal(output.cpu(), values.float().sum(1).bfloat16())
    assert torch.equal(input.cpu(), values)
    shifted = buffer[:, 15:23]  # one column is the input's
    refused(
        {"input": input, "output": shifted},
        ValueError,
        "output",
        "memory that the input also uses",
        "memory of its own",
    )
    flat = torch.zeros(TOKENS * TOPK * HIDDEN + TOKENS * HIDDEN, dtype=torch.bfloat16, device=device)
    ends_meet = (
        flat[: TOKENS * TOPK * HIDDEN].view(TOKENS, TOPK, HIDDEN),
        flat[TOKENS * TOPK * HIDDEN :].view(TOKENS, HIDDEN),
    )
    moe_cute.sum_reduce(*ends_meet)


def test_shared_output_in_part_of_the_output(device: torch.device) -> None:
    buffer = torch.ones(64, dtype=torch.bfloat16, device=device)
    arguments, _ = good(device)
    arguments["output"] = buffer[:24].view(TOKENS, HIDDEN)
    arguments["shared_output"] = buffer[8:32].view(TOKENS, HIDDEN)
    refused(
        arguments, ValueError, "shared_output", "part of the output's memory", "the output itself, or memory of its own"
    )
    arguments["shared_output"] = buffer[:24].as_strided((TOKENS, HIDDEN), (1, 3))  # the same place, in another order
    refused(
        arguments, ValueError, "shared_output", "part of the output's memory", "the output itself, or memory of its own"
    )
    assert bool((buffer == 1).all())
