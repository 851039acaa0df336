"""NaN, infinities, signed zeros, subnormals, overflow, ties and the order of the sum: as IEEE 754 says."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.acceptance import acceptors
from tests.calls import Call, random_values
from tests.reference import FLOATS, accumulator_of, assert_same_bits

inf, nan = math.inf, math.nan


def special_values(dtype: torch.dtype) -> list[float]:
    info = torch.finfo(dtype)
    smallest, eps = info.smallest_normal * info.eps, info.eps
    positive = [
        0.0,
        smallest,  # the least subnormal
        info.smallest_normal - smallest,  # the largest subnormal
        info.smallest_normal,
        1.0,
        1.0 + eps,
        eps / 2,  # with 1: a tie
        info.max,
        inf,
    ]
    return [*positive, *(-value for value in positive), nan]


def every_tuple(values: list[float], length: int, dtype: torch.dtype) -> Tensor:
    """[1, length, len(values) ** length]"""
    grid = torch.cartesian_prod(*[torch.tensor(values, dtype=dtype)] * length).view(-1, length)
    return grid.T.contiguous()[None]


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.0, -0.0, 0.75, 2.0**-20, 3e38, 1e300, 1e-300, -1e-300, inf, -inf])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_tuple_of_special_values(device: torch.device, dtype: torch.dtype, scale: float) -> None:
    for topk in (1, 2, 3):
        Call(every_tuple(special_values(dtype), topk, dtype), tokens=1, scale=scale).check(device)


def test_every_half() -> None:
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    expected = (halves.float() + 0.0).half()[None]
    for variant in acceptors(halves[None, None], torch.empty_like(expected)):
        assert_same_bits(moe_cute.sum_reduce(halves[None, None], variant=variant.name), expected, variant.name)


@contextmanager
def this_thread_flushes_subnormals() -> Iterator[None]:
    """As a caller may have it. Whoever is called must leave it so."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        yield
        assert torch.tensor(1e-40).mul(1).item() == 0
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_thread_that_flushes_subnormals(dtype: torch.dtype) -> None:
    """Its rows are those of the pool's threads, which do not."""
    torch.set_num_threads(2)
    for subnormal_of in {accumulator_of(dtype), dtype}:  # float16 has none of its accumulator's, and reads zeros
        value = torch.finfo(subnormal_of).smallest_normal / 64
        input = torch.full((64, 8, 513), value, dtype=torch.float64).to(dtype)
        for variant in acceptors(input, input[:, 0]):
            expected = moe_cute.sum_reduce(input, variant=variant.name)
            with this_thread_flushes_subnormals():
                actual = moe_cute.sum_reduce(input, variant=variant.name)
            assert_same_bits(actual, expected, variant.name)


def test_a_subnormal_scale_where_the_thread_flushes(device: torch.device) -> None:
    input = torch.ones(1, 1, 33, device=device)
    with this_thread_flushes_subnormals():
        actual = moe_cute.sum_reduce(input, None, 1e-40)
    assert_same_bits(actual, torch.full((1, 33), 1e-40))


def test_gradients_where_the_thread_flushes_subnormals() -> None:
    grad, rows = torch.full((1, 64), 1e-40), torch.ones(1, 64)
    slot = torch.zeros(1, 1, dtype=torch.int64)
    with this_thread_flushes_subnormals():
        dots = torch.ops.moe_cute.slot_dot(grad, rows, slot, 1.0)
        sums = torch.ops.moe_cute.row_sum(grad, slot, slot[0], torch.tensor([0, 1]), 1.0, None, torch.float32)
    assert_same_bits(dots, torch.full((1, 1), 64 * grad[0, 0].item()))
    assert_same_bits(sums, grad)


def sums_to(
    device: torch.device, dtype: torch.dtype, slots: list[float], expected: float, scale: float = 1.0, **fused: Any
) -> None:
    """The sum of `slots`, in vectors and in single elements, is `expected` to the bit."""
    column = torch.tensor(slots, dtype=torch.float64).to(dtype)
    assert column.double().tolist() == slots, "not representable: the test would test something else"
    for hidden in (1, 33):
        input = column[None, :, None].repeat(1, 1, hidden).to(device)
        fused = {name: tensor.to(device) for name, tensor in fused.items()}
        actual = moe_cute.sum_reduce(input, None, scale, **fused)
        assert_same_bits(actual, torch.full((1, hidden), expected, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_zeros(device: torch.device, dtype: torch.dtype) -> None:
    sums_to(device, dtype, [], 0.0)
    sums_to(device, dtype, [], -0.0, scale=-1.0)
    sums_to(device, dtype, [-0.0], 0.0)  # the sum starts from +0
    sums_to(device, dtype, [-0.0, -0.0], 0.0)
    sums_to(device, dtype, [1.0, -1.0], 0.0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nothing_but_a_slot_that_is_read_changes_the_sign_of_zero(device: torch.device, dtype: torch.dtype) -> None:
    """A weighted sum may underflow to -0, and what pads its slots to a whole number of loads must leave it so."""
    weight_dtype = accumulator_of(dtype)
    info = torch.finfo(weight_dtype)
    tiny, least = 2.0**-14, info.smallest_normal * info.eps
    for topk in range(1, 13):
        weights = torch.full((1, topk), least, dtype=weight_dtype)
        sums_to(device, dtype, [-tiny] * topk, -0.0, topk_weights=weights)
        for skipped in range(1, topk):
            ids = torch.zeros(1, topk, dtype=torch.int32)
            ids[0, skipped] = -1
            sums_to(device, dtype, [-tiny] * topk, -0.0, topk_weights=weights, topk_ids=ids)
    rows = torch.full((2, 33), -tiny, dtype=dtype, device=device)
    weights = torch.full((1, 3), least, dtype=weight_dtype, device=device)
    index = torch.tensor([[1, -1, 2]], device=device)
    actual = moe_cute.sum_reduce(rows, topk_weights=weights, inv_permuted_idx=index)
    assert_same_bits(actual, torch.full((1, 33), -0.0, dtype=dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_variant_keeps_the_sign_of_a_zero(device: torch.device, dtype: torch.dtype) -> None:
    """Of the scale, also where it underflows to zero, and of a weight: what is added to a sum of -0 shows it."""
    weight_dtype = accumulator_of(dtype)
    info = torch.finfo(weight_dtype)
    slots = torch.tensor([-(2.0**-14), 1.0], dtype=dtype)
    for hidden in (64, 33):  # whole vectors; vectors that start anywhere, and single elements
        input = slots[None, :, None].repeat(1, 1, hidden).to(device)
        output = torch.empty(1, hidden, dtype=dtype, device=device)
        for scale in (-0.0, 0.0, -1e-300):
            expected = torch.full((1, hidden), scale, dtype=weight_dtype).to(dtype)
            for variant in acceptors(input[:, 1:], output):
                moe_cute.sum_reduce(input[:, 1:], output, scale, variant=variant.name)
                assert_same_bits(output, expected, (variant.name, scale))
        for zero in (-0.0, 0.0):
            weights = torch.tensor([[info.smallest_normal * info.eps, zero]], dtype=weight_dtype, device=device)
            for variant in acceptors(input, output, {"topk_weights": weights}):
                moe_cute.sum_reduce(input, output, topk_weights=weights, variant=variant.name)
                assert_same_bits(output, torch.full((1, hidden), zero, dtype=dtype), (variant.name, zero))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_ties_go_to_even(device: torch.device, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    sums_to(device, dtype, [1.0, eps / 2], 1.0)
    sums_to(device, dtype, [1.0 + eps, eps / 2], 1.0 + 2 * eps)
    sums_to(device, dtype, [-1.0, -eps / 2], -1.0)
    sums_to(device, dtype, [-1.0 - eps, -eps / 2], -1.0 - 2 * eps)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_overflow_on_rounding(device: torch.device, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    half_ulp = info.max * info.eps / 4 / (1 - info.eps / 2)
    sums_to(device, dtype, [info.max, half_ulp], inf)  # a tie, whose even neighbour is infinity
    sums_to(device, dtype, [info.max, half_ulp / 2], info.max)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_nothing_is_rounded_before_the_end(device: torch.device, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    # Rounded before the scale, 1 + eps/2 would be 1, and the result 3. As it is, 3 + 1.5 eps lies past a tie of 3.
    sums_to(device, dtype, [1.0, eps / 2], 3.0 + 2 * eps, scale=3.0)
    # Rounded after each slot, every eps/2 would be lost.
    sums_to(device, dtype, [1.0, eps / 2, eps / 2], 1.0 + eps)
    # A sum beyond the dtype's range on the way.
    sums_to(device, dtype, [32768.0, 32768.0, -32768.0], 32768.0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_slots_are_added_in_ascending_order(device: torch.device, dtype: torch.dtype) -> None:
    ulp = torch.finfo(accumulator_of(dtype)).eps
    big = 2.0**14  # 16-bit dtypes hold both, float32 just not their sum
    small = big * ulp / 2
    sums_to(device, dtype, [big, small, small, -big], 0.0)
    sums_to(device, dtype, [small, small, big, -big], 2 * small)
    sums_to(device, dtype, [big, -big, small, small], 2 * small)
    sums_to(device, dtype, [small, small, small, small, big, -big, 0.0, 0.0], 4 * small)
    sums_to(device, dtype, [big, small, small, small, small, -big, 0.0, 0.0], 0.0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_weighted_slots_are_fused_multiply_adds(device: torch.device, dtype: torch.dtype) -> None:
    eps, fine = torch.finfo(dtype).eps, torch.finfo(accumulator_of(dtype)).eps
    weight_dtype = accumulator_of(dtype)
    # (1 + eps)(1 + fine) = 1 + eps + fine + eps fine: the last term is lost if the product is rounded.
    weights = torch.tensor([[1.0, 1.0 + fine]], dtype=torch.float64).to(weight_dtype)
    sums_to(device, dtype, [-1.0 - eps, 1.0 + eps], fine + eps * fine, topk_weights=weights)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_shared_output_is_added_in_the_same_rounding(device: torch.device, dtype: torch.dtype) -> None:
    eps, fine = torch.finfo(dtype).eps, torch.finfo(accumulator_of(dtype)).eps
    for hidden in (1, 33):
        input = torch.full((1, 1, hidden), 1.0 + eps, dtype=dtype, device=device)
        shared = torch.full((1, hidden), -1.0 - eps, dtype=dtype, device=device)
        actual = moe_cute.sum_reduce(input, None, 1.0 + fine, shared_output=shared)
        assert_same_bits(actual, torch.full((1, hidden), fine + eps * fine, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("topk", [2, 8, 33])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_no_worse_than_torch(device: torch.device, dtype: torch.dtype, topk: int, rng: torch.Generator) -> None:
    """The mean error against exact sums, held against that of torch.sum in the same dtype."""
    input = random_values((16, topk, 256), dtype, rng)
    slots = input.double().transpose(1, 2).flatten(0, 1).tolist()
    exact = torch.tensor([math.fsum(terms) for terms in slots], dtype=torch.float64).view(16, 256)
    ours = (moe_cute.sum_reduce(input.to(device)).cpu().double() - exact).abs().mean()
    torchs = (input.sum(1).double() - exact).abs().mean()
    # In 16 bits the last rounding decides, and torch's is the same. Else the order does: beyond 16 slots torch adds up
    # partial sums, smaller than one long chain's, whose error was 1.26 times torch's at most in 15 draws of 33 slots.
    assert ours <= torchs * (1.5 if dtype.itemsize > 2 and topk > 16 else 1.001)
