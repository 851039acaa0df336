"""The gradient of the plain sum: a broadcast, without a kernel and without a copy."""

import pytest
import torch

import moe_cute
from tests.calls import random_values
from tests.reference import FLOATS, assert_same_bits


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_plain_gradient_is_a_broadcast(
    device: torch.device, dtype: torch.dtype, scale: float, rng: torch.Generator
) -> None:
    input = random_values((3, 4, 16), dtype, rng).to(device).requires_grad_()
    upstream = random_values((3, 16), dtype, rng).to(device)
    output = moe_cute.sum_reduce(input, None, scale)
    (gradient,) = torch.autograd.grad(output, input, upstream)
    assert_same_bits(gradient.contiguous(), (upstream * scale)[:, None].expand(3, 4, 16).contiguous())
    assert gradient.stride(1) == 0, "a copy for each slot"
    if scale == 1.0:
        assert gradient.data_ptr() == upstream.data_ptr(), "a copy of the gradient"


def test_plain_gradcheck(device: torch.device, rng: torch.Generator) -> None:
    for shape in [(3, 4, 5), (1, 1, 1), (2, 0, 3), (0, 2, 3)]:
        input = random_values(shape, torch.float64, rng).to(device).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: moe_cute.sum_reduce(x, None, 2.5), input)
        assert torch.autograd.gradgradcheck(lambda x: moe_cute.sum_reduce(x, None, 2.5), input)


def test_gradient_through_another_dtype(device: torch.device, rng: torch.Generator) -> None:
    input = random_values((3, 4, 16), torch.bfloat16, rng).to(device).requires_grad_()
    output = moe_cute.sum_reduce(input, None, 2.0, out_dtype=torch.float32)
    assert output.dtype is torch.float32
    output.sum().backward()
    assert input.grad is not None
    assert_same_bits(input.grad, torch.full_like(input, 2.0))


def test_the_forward_has_the_same_bits(device: torch.device, rng: torch.Generator) -> None:
    input = random_values((3, 8, 2048), torch.bfloat16, rng).to(device)
    with_gradient = moe_cute.sum_reduce(input.clone().requires_grad_(), None, 2.5)
    assert with_gradient.requires_grad
    assert_same_bits(with_gradient, moe_cute.sum_reduce(input, None, 2.5))
