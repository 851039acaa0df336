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

# Other ways in, a token that is not live, and a map that is refused for its shape.
MORE_CALLS = """
import torch, moe_cute
rows, index = torch.ones(4, 8), torch.tensor([[0, 1], [2, {row}]])
live = torch.tensor([{live}], dtype=torch.int32)
try:
    moe_cute.sum_reduce(torch.ones(2, 2, 8), topk_ids=index, expert_map=torch.tensor(1, dtype=torch.int32))
except ValueError as error:
    assert str(error).startswith("expert_map: was of shape"), error
moe_cute.sum_reduce(rows, inv_permuted_idx=index, topk_ids=torch.tensor([[0, 0], [0, -1]]))  # a slot that is skipped
meta = moe_cute.sum_reduce(rows.to("meta"), inv_permuted_idx=index.to("meta"))  # values that none can look at
moe_cute.sum_reduce(rows.requires_grad_(), inv_permuted_idx=index, num_tokens=live)
"""

# Each is refused by the ordinary checks, in their words.
REFUSED_ANYWAY = """
import torch, moe_cute
rows, slots = torch.ones(4, 8), torch.ones(3, 2, 8)
ids, table = torch.zeros(3, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
gone = torch.zeros(3, 2, dtype=torch.int32)
gone.untyped_storage().resize_(0)
for message, input, options in [
    *((f"topk_ids: was of dtype {str(dtype)[6:]}", slots, {"topk_ids": ids.to(dtype), "expert_map": table})
      for dtype in (torch.uint32, torch.uint16, torch.complex64)),
    ("expert_map: was of dtype uint32", slots, {"topk_ids": ids, "expert_map": table.to(torch.uint32)}),
    ("inv_permuted_idx: was of dtype complex64", rows, {"inv_permuted_idx": ids.to(torch.complex64)}),
    ("num_tokens: was of dtype float32", slots, {"topk_ids": ids, "num_tokens": torch.tensor([torch.nan])}),
    ("topk_ids: was a tensor without memory", slots, {"topk_ids": gone, "expert_map": table}),
    ("inv_permuted_idx: was a tensor without memory", rows, {"inv_permuted_idx": gone}),
    ("topk_ids: was on another device", slots, {"topk_ids": ids.to("meta"), "expert_map": table}),
    ("topk_ids: was of type list", slots, {"topk_ids": [[0, 0]] * 3, "expert_map": table}),
]:
    try:
        moe_cute.sum_reduce(input, **options)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(message), (message, error)
    else:
        raise AssertionError(message)
"""


def run(mode: str, calls: str = CALL, **values: int) -> str:
    """What the calls wrote to stderr; empty if they went well."""
    root = Path(moe_cute.__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-c", calls.format(**values) if values else calls]
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
    errors = run("1", row=row, expert=expert)
    assert message in errors
    assert bool(errors) is bool(message)


@pytest.mark.parametrize(("row", "live", "refused"), [(4, 2, True), (4, 1, False), (3, 2, False)])
def test_every_way_in(row: int, live: int, refused: bool) -> None:
    errors = run("1", MORE_CALLS, row=row, live=live)
    assert ("ValueError: inv_permuted_idx: was 4 in slot [1, 1]" in errors) is refused
    assert bool(errors) is refused


def test_what_is_refused_anyway() -> None:
    assert run("1", REFUSED_ANYWAY) == ""


@pytest.mark.parametrize("mode", ["0", "", "False"])
def test_off(mode: str) -> None:
    assert run(mode, row=4, expert=3) == ""
