"""MOE_CUTE_CHECK=1: ids and rows past their ends, else skipped, are errors that name the slot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import moe_cute

CALL = """
import torch, moe_cute
rows, slots = torch.ones(4, 8), torch.ones(2, 3, 8)
index = torch.tensor([[0, 1, -1], [2, {row}, 3]])
ids = torch.tensor([[0, 1, -1], [0, {expert}, 1]])
expert_map = torch.tensor([0, 1, -1], dtype=torch.int32)
moe_cute.sum_reduce(rows, inv_permuted_idx=index)
moe_cute.sum_reduce(slots, topk_ids=ids, expert_map=expert_map)
"""


def run(mode: str, row: int, expert: int) -> str:
    """What the call wrote to stderr; empty if it went well."""
    root = Path(moe_cute.__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-c", CALL.format(row=row, expert=expert)]
    environment = {**os.environ, "MOE_CUTE_CHECK": mode}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120).stderr


@pytest.mark.parametrize(
    ("row", "expert", "message"),
    [
        (4, 2, "ValueError: inv_permuted_idx: was 4 in slot [1, 1]; allowed: less than the 4 rows"),
        (3, 3, "ValueError: topk_ids: was 3 in slot [1, 1]; allowed: less than the 3 experts"),
        (3, 2, ""),
    ],
)
def test_past_the_end(row: int, expert: int, message: str) -> None:
    errors = run("1", row, expert)
    assert message in errors
    assert bool(errors) is bool(message)


@pytest.mark.parametrize("mode", ["0", ""])
def test_off(mode: str) -> None:
    assert run(mode, row=4, expert=3) == ""
