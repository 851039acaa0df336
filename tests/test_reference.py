"""The reference itself, against exact rational arithmetic: what everything else is measured by."""

import math
import struct
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tests import reference
from tests.reference import assert_same_bits, fma


def wide_range(count: int, exponents: int, dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    """Random significands, some of few bits so that ties are hit, times random powers of two."""
    few_bits = torch.randint(-8, 9, (count,), generator=rng).double()
    many_bits = torch.randn(count, generator=rng, dtype=torch.float64)
    powers = torch.randint(-exponents, exponents + 1, (count,), generator=rng)
    return torch.ldexp(torch.where(torch.rand(count, generator=rng) < 0.5, few_bits, many_bits), powers).to(dtype)


def near_cancellation(a: Tensor, b: Tensor, rng: torch.Generator) -> Tensor:
    """Close to -a * b, where a fused multiply-add has the most to lose."""
    return torch.where(torch.rand(a.shape, generator=rng) < 0.5, -(a * b), torch.nextafter(a * b, torch.zeros_like(a)))


def rounded_to_float32(exact: Fraction) -> float:
    """Through integers, so that there is one rounding: Fraction's own conversion goes to float64."""
    if exact == 0:
        return 0.0
    exponent = max(math.floor(math.log2(abs(exact))) - 23, -149)
    quantum = Fraction(2) ** exponent
    (rounded,) = struct.unpack("f", struct.pack("f", float(round(exact / quantum) * quantum)))
    return float(rounded)


@pytest.mark.parametrize(
    ("dtype", "exponents"), [(torch.float32, 12), (torch.float32, 55), (torch.float64, 12), (torch.float64, 90)]
)
def test_fma_is_rounded_once(dtype: torch.dtype, exponents: int, rng: torch.Generator) -> None:
    a, b = (wide_range(2000, exponents, dtype, rng) for _ in range(2))
    c = torch.cat([wide_range(1000, exponents, dtype, rng), near_cancellation(a[1000:], b[1000:], rng)])
    exact = [
        Fraction(x) * Fraction(y) + Fraction(z) for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    rounded = [float(value) if dtype is torch.float64 else rounded_to_float32(value) for value in exact]
    actual = fma(a, b, c)
    assert actual.dtype is dtype
    assert actual.tolist() == rounded
    assert (actual != a * b + c).any(), "these numbers do not tell a fused multiply-add from two roundings"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fma_of_special_values(dtype: torch.dtype) -> None:
    inf, nan = math.inf, math.nan
    rows = [  # a, b, c, a * b + c
        (inf, 1.0, 1.0, inf),
        (inf, 0.0, 1.0, nan),
        (inf, 1.0, -inf, nan),
        (nan, 1.0, 1.0, nan),
        (1.0, 1.0, nan, nan),
        (-1.0, 0.0, -0.0, -0.0),
        (1.0, 0.0, -0.0, 0.0),
        (1.0, -1.0, 1.0, 0.0),
    ]
    a, b, c, expected = torch.tensor(rows, dtype=dtype).unbind(1)
    assert_same_bits(fma(a, b, c), expected)


def test_differing_tells_signed_zeros_apart_and_nans_not() -> None:
    left = torch.tensor([0.0, math.nan, 1.0, math.nan])
    right = torch.tensor([-0.0, -math.nan, 1.0, 1.0])
    assert reference.differing(left, right).tolist() == [True, False, False, True]


def test_sum_reduce_skips_and_gathers() -> None:
    rows = torch.tensor([[1.0], [2.0], [math.nan], [4.0]])
    index = torch.tensor([[0, 1, 9], [3, -1, 1], [2, 0, 0]])  # 9 lies past the end
    ids = torch.tensor([[0, 0, 0], [0, 0, 1], [7, 0, 2]])  # 7 too; 1 and 2 are not local
    result = reference.sum_reduce(
        rows,
        10.0,
        topk_weights=torch.full((3, 3), 0.5),
        topk_ids=ids,
        expert_map=torch.tensor([0, -1, -1], dtype=torch.int32),
        inv_permuted_idx=index,
        shared_output=torch.tensor([[100.0], [200.0], [300.0]]),
    )
    assert result.tolist() == [[115.0], [220.0], [305.0]]
