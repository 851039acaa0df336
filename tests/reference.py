"""The result that every variant owes, bit for bit, in plain torch operations; and how bits are compared.

float32 additions, multiplications and conversions of torch are IEEE's, one rounding each. It has no fused multiply-add,
so that is built here; tests/test_reference.py holds it against exact rational arithmetic.
"""

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CHANGES_OF_DTYPE = (  # from an input's to another that its output may have
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float16),
    (torch.float32, torch.bfloat16),
)
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def accumulator_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def sum_reduce(
    input: Tensor,
    routed_scaling_factor: float = 1.0,
    *,
    topk_weights: Tensor | None = None,
    topk_ids: Tensor | None = None,
    expert_map: Tensor | None = None,
    inv_permuted_idx: Tensor | None = None,
    shared_output: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """As moe_cute.sum_reduce, of all tokens, on the device of `input`."""
    accumulator = accumulator_of(input.dtype)
    slots, live = input, _is_local(topk_ids, expert_map)
    if inv_permuted_idx is not None:
        rows = input.shape[0]
        in_range = (inv_permuted_idx >= 0) & (inv_permuted_idx < rows)
        live = in_range if live is None else live & in_range
        padded = torch.cat([input, input.new_zeros(1, input.shape[1])])
        slots = padded[torch.where(in_range, inv_permuted_idx, rows)]

    tokens, topk, hidden = slots.shape
    total = torch.zeros(tokens, hidden, dtype=accumulator, device=input.device)
    for k in range(topk):
        term = slots[:, k].to(accumulator)
        if topk_weights is None:
            added = total + term
        else:
            added = fma(topk_weights[:, k, None].to(accumulator).expand_as(term), term, total)
        total = added if live is None else torch.where(live[:, k, None], added, total)

    scale = torch.tensor(routed_scaling_factor, dtype=torch.float64, device=input.device).to(accumulator)
    if shared_output is None:
        scaled = total * scale
    else:
        scaled = fma(total, scale.expand_as(total), shared_output.to(accumulator))
    return scaled.to(out_dtype or input.dtype)


def _is_local(topk_ids: Tensor | None, expert_map: Tensor | None) -> Tensor | None:
    if topk_ids is None or expert_map is None:
        return None if topk_ids is None else topk_ids >= 0
    in_map = (topk_ids >= 0) & (topk_ids < expert_map.shape[0])
    padded = torch.cat([expert_map, expert_map.new_full((1,), -1)])
    return padded[torch.where(in_map, topk_ids, expert_map.shape[0])] >= 0


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c with one rounding, for float32, and for float64 while nothing overflows or is subnormal on the way."""
    if a.dtype is torch.float32:
        # A product of two float32 is exact in float64; rounded to odd, the sum can be rounded again without harm.
        return _sum_to_odd(a.double() * b.double(), c.double()).float()
    # Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.
    product, product_error = _exact_product(a, b)
    low, low_error = _exact_sum(c, product_error)
    high, high_error = _exact_sum(product, low)
    result = high + _sum_to_odd(low_error, high_error)
    # An exact zero has its sign, and what is not finite its value, from the plain operations.
    return torch.where(torch.isfinite(result) & (result != 0), result, a * b + c)


def _exact_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def _exact_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(value: Tensor) -> tuple[Tensor, Tensor]:
    shifted = value * (2.0**27 + 1)
    high = shifted - (shifted - value)
    return high, value - high


def _sum_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """a + b; where it is inexact, the neighbour whose last bit is set."""
    total, error = _exact_sum(a, b)
    is_even = bits_of(total) % 2 == 0
    other = torch.nextafter(total, torch.copysign(torch.full_like(total, torch.inf), error))
    return torch.where(torch.isfinite(total) & (error != 0) & is_even, other, total)


def bits_of(tensor: Tensor) -> Tensor:
    return tensor.view(_INTEGERS[tensor.dtype.itemsize])


def differing(actual: Tensor, expected: Tensor) -> Tensor:
    """Where the bits differ, any NaN being as good as any other."""
    both_nan = torch.isnan(actual) & torch.isnan(expected)
    return (bits_of(actual) != bits_of(expected)) & ~both_nan


def assert_same_bits(actual: Tensor, expected: Tensor, context: object = "") -> None:
    assert actual.shape == expected.shape, (actual.shape, expected.shape, context)
    assert actual.dtype is expected.dtype, (actual.dtype, expected.dtype, context)
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    wrong = differing(actual, expected).nonzero()
    if len(wrong):
        at = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{len(wrong)} of {actual.numel()} elements differ, the first at {at}: "
            f"{actual[at].item()!r}, not {expected[at].item()!r} {context}"
        )
