"""A call that is right, to be changed at one point, and how a refusal must read."""

from typing import Any

import pytest
import torch

import moe_cute
from tests.memory import Canvas, canvas

TOKENS, TOPK, HIDDEN = 3, 2, 8

Arguments = dict[str, Any]


def good(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[Arguments, Canvas]:
    """The arguments, and the poisoned memory that their output lies in."""
    out = canvas((TOKENS, HIDDEN), dtype, device)
    input = torch.zeros(TOKENS, TOPK, HIDDEN, dtype=dtype, device=device)
    return {"input": input, "output": out.view, "routed_scaling_factor": 2.0}, out


def refused(arguments: Arguments, error: type[Exception], argument: str, was: str, allowed: str) -> None:
    """`was` and `allowed` are regular expressions. With an option, the call does not go the short way."""
    for each in (arguments, {"pdl": True, **arguments}):
        with pytest.raises(error, match=rf"^{argument}: was .*{was}.*; allowed: .*{allowed}") as caught:
            moe_cute.sum_reduce(**each)
        assert type(caught.value) is error
