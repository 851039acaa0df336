"""slot_dot and row_sum, the kernels behind the gradients: their bits, whatever the layout and the device."""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from tests.calls import random_values
from tests.memory import INPUT_LAYOUTS, OUTPUT_LAYOUTS, placed, placed_input, values_for
from tests.reference import FLOATS, accumulator_of, assert_same_bits, fma
from tests.variants import manifest

SLOT_DOT, ROW_SUM = torch.ops.moe_cute.slot_dot.default, torch.ops.moe_cute.row_sum.default

REFUSED = (ValueError, RuntimeError)  # torch 2.15 makes a RuntimeError of whatever an operator throws

SCALE = -2.5  # negative: what is skipped must be +0 in slot_dot, and a sum of nothing times this in row_sum
TOKENS, TOPK = 5, 3
# One element; a piece of a lane and around it; what 32 lanes take at once, and around it; several pieces in flight.
HIDDEN = [0, 1, 7, 8, 9, 64, 255, 256, 257, 1024, 1031, 2880]


def grad_dtypes(dtype: torch.dtype) -> list[torch.dtype]:
    return list(dict.fromkeys([dtype, accumulator_of(dtype)]))


EVERY_PAIR = [(dtype, grad_dtype) for dtype in FLOATS for grad_dtype in grad_dtypes(dtype)]
every_pair = pytest.mark.parametrize(("dtype", "grad_dtype"), EVERY_PAIR, ids=str)


def expected_slot_dot(grad: Tensor, rows: Tensor, row_of_slot: Tensor, scale: float) -> Tensor:
    """In the order of csrc/pieces.hpp: 32 lanes, each with as many partial sums as 16 bytes have elements."""
    lanes, partials = 32, 16 // rows.element_size()
    accumulator = accumulator_of(rows.dtype)
    exists = (row_of_slot >= 0) & (row_of_slot < rows.shape[0])
    missing = rows.new_zeros(1, rows.shape[1])
    values = torch.cat([rows, missing])[torch.where(exists, row_of_slot, rows.shape[0])]  # (tokens, topk, hidden)
    padding = (0, -rows.shape[1] % (lanes * partials))
    factors = torch.nn.functional.pad(values.to(accumulator), padding).unflatten(-1, (-1, lanes, partials))
    grads = torch.nn.functional.pad(grad.to(accumulator), padding).unflatten(-1, (-1, lanes, partials))
    sums = torch.zeros(*row_of_slot.shape, lanes, partials, dtype=accumulator)
    for piece in range(factors.shape[2]):
        sums = fma(grads[:, None, piece].expand_as(sums), factors[:, :, piece], sums)
    for dim in (-1, -2):
        while sums.shape[dim] > 1:
            low, high = sums.chunk(2, dim)
            sums = low + high
    return torch.where(exists, sums[..., 0, 0] * scale, 0)


def expected_row_sum(
    grad: Tensor, row_of_slot: Tensor, rows: int, scale: float, weights: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """Slot after slot, in their order."""
    accumulator = accumulator_of(out_dtype)
    sums = torch.zeros(rows, grad.shape[1], dtype=accumulator)
    for slot in torch.cartesian_prod(torch.arange(row_of_slot.shape[0]), torch.arange(row_of_slot.shape[1])):
        token, k = slot.tolist()
        row = int(row_of_slot[token, k])
        if row >= 0:
            weight = torch.ones(()) if weights is None else weights[token, k]
            term = grad[token].to(accumulator)
            sums[row] = fma(weight.to(accumulator).expand_as(term), term, sums[row])
    return (sums * scale).to(out_dtype)


def by_row(row_of_slot: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """`slot_order` and `first_slot`, the long way."""
    slots = row_of_slot.flatten().tolist()
    order = sorted(range(len(slots)), key=lambda slot: slots[slot])
    first = [sum(row < bound for row in slots) for bound in range(rows + 1)]
    return torch.tensor(order, dtype=torch.int64), torch.tensor(first, dtype=torch.int64)


def random_rows(rows: int, rng: torch.Generator, above: int = 0) -> Tensor:
    """Some slots are skipped, some rows are read by several slots and some by none."""
    return torch.randint(-2, rows + above, (TOKENS, TOPK), generator=rng).clamp(min=-1)


@every_pair
def test_slot_dot(device: torch.device, dtype: torch.dtype, grad_dtype: torch.dtype, rng: torch.Generator) -> None:
    for hidden in HIDDEN:
        rows = random_values((11, hidden), dtype, rng)
        grad = random_values((TOKENS, hidden), grad_dtype, rng)
        row_of_slot = random_rows(11, rng, above=3)
        actual = SLOT_DOT(grad.to(device), rows.to(device), row_of_slot.to(device), SCALE)
        assert_same_bits(actual, expected_slot_dot(grad, rows, row_of_slot, SCALE), hidden)


@every_pair
def test_row_sum(device: torch.device, dtype: torch.dtype, grad_dtype: torch.dtype, rng: torch.Generator) -> None:
    for hidden, weighted in product(HIDDEN, (False, True)):
        grad = random_values((TOKENS, hidden), grad_dtype, rng)
        weights = random_values((TOKENS, TOPK), accumulator_of(dtype), rng) if weighted else None
        row_of_slot = random_rows(11, rng)
        tensors = [tensor.to(device) for tensor in (grad, row_of_slot, *by_row(row_of_slot, 11))]
        actual = ROW_SUM(*tensors, SCALE, None if weights is None else weights.to(device), dtype)
        assert_same_bits(actual, expected_row_sum(grad, row_of_slot, 11, SCALE, weights, dtype), (hidden, weighted))


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_slot_dot_of_strided_inputs(
    device: torch.device, dtype: torch.dtype, layout: str, rng: torch.Generator
) -> None:
    for hidden in (64, 1031):
        input = values_for(layout, random_values((TOKENS, TOPK, hidden), dtype, rng))
        grad = random_values((TOKENS, hidden), dtype, rng)
        row_of_slot = random_rows(TOKENS * TOPK, rng)
        actual = SLOT_DOT(grad.to(device), placed_input(layout, input, device), row_of_slot.to(device), SCALE)
        assert_same_bits(actual, expected_slot_dot(grad, input.flatten(0, 1), row_of_slot, SCALE), hidden)


GRAD_LAYOUTS = {
    **OUTPUT_LAYOUTS,
    "one_row": (lambda t, h: (0, 1), 0),
    "one_element": (lambda t, h: (0, 0), 0),  # the gradient of a plain sum, as autograd hands it on
}


@pytest.mark.parametrize("layout", GRAD_LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_strided_gradients(device: torch.device, dtype: torch.dtype, layout: str, rng: torch.Generator) -> None:
    for hidden in (64, 1031):
        strides, offset = GRAD_LAYOUTS[layout]
        distinct = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides(TOKENS, hidden))
        grad = random_values((TOKENS, hidden), dtype, rng)[distinct].expand(TOKENS, hidden)
        strided = placed(grad, device, strides(TOKENS, hidden), offset)
        rows, row_of_slot = random_values((11, hidden), dtype, rng), random_rows(11, rng)
        dots = SLOT_DOT(strided, rows.to(device), row_of_slot.to(device), SCALE)
        assert_same_bits(dots, expected_slot_dot(grad, rows, row_of_slot, SCALE), hidden)
        indices = [tensor.to(device) for tensor in (row_of_slot, *by_row(row_of_slot, 11))]
        sums = ROW_SUM(strided, *indices, SCALE, None, dtype)
        assert_same_bits(sums, expected_row_sum(grad, row_of_slot, 11, SCALE, None, dtype), hidden)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_pads_a_row_leaves_a_negative_zero(device: torch.device, dtype: torch.dtype) -> None:
    """Every lane has a product, all underflow to -0, and the last piece of the row is not whole."""
    info = torch.finfo(accumulator_of(dtype))
    grad = torch.full((1, 264), -info.smallest_normal * info.eps, dtype=accumulator_of(dtype), device=device)
    row = torch.full((1, 264), 2.0**-14, dtype=dtype, device=device)
    dots = SLOT_DOT(grad, row, torch.zeros(1, 1, dtype=torch.int64, device=device), 1.0)
    assert_same_bits(dots, torch.full((1, 1), -0.0, dtype=grad.dtype))


def test_rows_that_no_slot_reads_are_not_read(device: torch.device, rng: torch.Generator) -> None:
    row_of_slot = torch.tensor([[0, -1], [2**40, -(2**40)]], device=device)
    rows = torch.full((3, 64), torch.nan, device=device)
    rows[0] = 1
    grad = torch.ones(2, 64, device=device)
    grad[1] = torch.nan
    assert_same_bits(SLOT_DOT(grad, rows, row_of_slot, SCALE), torch.tensor([[64 * SCALE, 0], [0, 0]]))


def test_every_slot_reads_one_row(device: torch.device, rng: torch.Generator) -> None:
    row_of_slot = torch.full((300, 8), 2)
    grad = torch.randint(-8, 9, (300, 96), generator=rng).to(torch.bfloat16)  # sums that are exact in float32
    indices = [tensor.to(device) for tensor in (row_of_slot, *by_row(row_of_slot, 4))]
    sums = ROW_SUM(grad.to(device), *indices, 1.0, None, torch.bfloat16)
    expected = torch.zeros(4, 96)
    expected[2] = 8 * grad.float().sum(0)
    assert_same_bits(sums, expected.to(torch.bfloat16))


@pytest.mark.parametrize("empty", ["tokens", "topk", "rows"])
def test_empty(device: torch.device, empty: str) -> None:
    tokens, topk, rows = (0 if name == empty else 2 for name in ("tokens", "topk", "rows"))
    row_of_slot = torch.full((tokens, topk), -1)
    grad = torch.ones(tokens, 16, device=device)
    assert_same_bits(
        SLOT_DOT(grad, torch.ones(rows, 16, device=device), row_of_slot.to(device), 1.0), torch.zeros(tokens, topk)
    )
    indices = [tensor.to(device) for tensor in (row_of_slot, *by_row(row_of_slot, rows))]
    assert_same_bits(ROW_SUM(grad, *indices, 1.0, None, torch.float32), torch.zeros(rows, 16))


def test_opcheck(device: torch.device, rng: torch.Generator) -> None:
    row_of_slot = random_rows(6, rng)
    indices = [tensor.to(device) for tensor in (row_of_slot, *by_row(row_of_slot, 6))]

    def leaf(*shape: int) -> Tensor:
        return random_values(shape, torch.float64, rng).to(device).requires_grad_()

    torch.library.opcheck(SLOT_DOT, (leaf(TOKENS, 8), leaf(6, 8), indices[0], SCALE))
    torch.library.opcheck(SLOT_DOT, (leaf(TOKENS, 8), leaf(TOKENS, TOPK, 8), indices[0], SCALE))
    torch.library.opcheck(ROW_SUM, (leaf(TOKENS, 8), *indices, SCALE, leaf(TOKENS, TOPK), torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.ones(4, 8)}, r"grad: was of shape \[4, 8\]; allowed: \[tokens, hidden\] = \[5, 8\]"),
        ({"grad": torch.ones(5, 7)}, r"grad: was of shape \[5, 7\]; allowed: \[tokens, hidden\] = \[5, 8\]"),
        ({"grad": torch.ones(5, 8).half()}, "grad: was of dtype float16; allowed: float32"),
        ({"input": torch.ones(8)}, r"input: was of shape \[8\]; allowed: shape \[tokens, topk, "),
        ({"input": torch.ones(6, 8).int()}, "input: was of dtype int32; allowed: float16, "),
        ({"row_of_slot": torch.zeros(5, 3).int()}, "row_of_slot: was of dtype int32; allowed: int64"),
        ({"row_of_slot": torch.zeros(5, 3).long().T.contiguous().T}, "row_of_slot: was strided; allowed: contiguous"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_slot_dot_refuses(change: dict[str, Tensor], message: str) -> None:
    good = {"grad": torch.ones(5, 8), "input": torch.ones(6, 8), "row_of_slot": torch.zeros(5, 3, dtype=torch.int64)}
    with pytest.raises(REFUSED, match=message):
        SLOT_DOT(**good | change, scale=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.ones(4, 8)}, r"grad: was of shape \[4, 8\]; allowed: \[tokens, hidden\] = \[5, 8\]"),
        ({"slot_order": torch.arange(14)}, r"slot_order: was of shape \[14\]; allowed: \[tokens x topk\] = \[15\]"),
        ({"slot_order": torch.arange(15).int()}, "slot_order: was of dtype int32; allowed: int64"),
        ({"first_slot": torch.arange(8)[::2]}, "first_slot: was strided; allowed: contiguous"),
        ({"topk_weights": torch.ones(3, 5)}, r"of shape \[3, 5\]; allowed: \[tokens, topk\] = \[5, 3\]"),
        ({"topk_weights": torch.ones(5, 3).half()}, "topk_weights: was of dtype float16; allowed: float32"),
        ({"out_dtype": torch.int64}, "out_dtype: was of dtype int64; allowed: float16, "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_row_sum_refuses(change: dict[str, object], message: str) -> None:
    good = {
        "grad": torch.ones(5, 8),
        "row_of_slot": torch.zeros(5, 3, dtype=torch.int64),
        "slot_order": torch.arange(15),
        "first_slot": torch.tensor([0, 15, 15]),
        "topk_weights": torch.ones(5, 3),
        "out_dtype": torch.float32,
    }
    with pytest.raises(REFUSED, match=message):
        ROW_SUM(**good | change, scale=1.0)


def test_the_manifest_has_a_kernel_for_each_dtype_of_the_spec() -> None:
    dtypes = {row["dtype"] for row in manifest()["variants"]}
    instruction_sets = {row["instruction_set"] for row in manifest()["variants"]}
    gradients = manifest()["gradients"]
    made = {(row["operation"], row["dtype"], row["instruction_set"]) for row in gradients}
    assert made == set(product(("slot_dot", "row_sum"), dtypes, instruction_sets))
    for earlier, later in pairwise(row for row in gradients if row["backend"] == "cpu"):
        if (earlier["operation"], earlier["dtype"]) == (later["operation"], later["dtype"]):
            order = ("avx512", "avx2", "baseline")
            assert order.index(earlier["instruction_set"]) < order.index(later["instruction_set"])
