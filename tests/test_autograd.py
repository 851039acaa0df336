"""Gradients: of the plain sum a broadcast without a copy; of the fused call to the input, the weights and the shared row."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.calls import random_values
from tests.reference import FLOATS, assert_same_bits


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_plain_gradient_is_a_broadcast(device: torch.device, dtype: torch.dtype, scale: float, rng: torch.Generator) -> None:
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
    assert_same_bits(input.grad, torch.full_like(input, 2.0))


def test_the_forward_has_the_same_bits(device: torch.device, rng: torch.Generator) -> None:
    input = random_values((3, 8, 2048), torch.bfloat16, rng).to(device)
    with_gradient = moe_cute.sum_reduce(input.clone().requires_grad_(), None, 2.5)
    assert with_gradient.requires_grad
    assert_same_bits(with_gradient, moe_cute.sum_reduce(input, None, 2.5))


TOKENS, TOPK, HIDDEN, ROWS = 4, 3, 5, 14
INDEX = torch.tensor([[0, 5, -1], [7, 13, 2], [99, 3, 4], [-1, -1, -1]])  # 99 lies past the end; no row is read twice
IDS = torch.tensor([[0, 1, 2], [3, -1, 0], [1, 9, 1], [0, 0, 0]])
EXPERT_MAP = torch.tensor([0, -1, 1, 2], dtype=torch.int32)

Inputs = dict[str, Tensor]


def fused_inputs(permuted: bool, device: torch.device, rng: torch.Generator) -> Inputs:
    """What a gradient is asked for."""
    shape = (ROWS, HIDDEN) if permuted else (TOKENS, TOPK, HIDDEN)
    shapes = {"input": shape, "topk_weights": (TOKENS, TOPK), "shared_output": (TOKENS, HIDDEN)}
    return {name: random_values(size, torch.float64, rng).to(device).requires_grad_() for name, size in shapes.items()}


def fused(inputs: Inputs, routing: Inputs) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    def call(input: Tensor, *others: Tensor) -> Tensor:
        named = dict(zip(list(inputs)[1:], others, strict=True))
        return moe_cute.sum_reduce(input, None, 2.5, **named, **routing)

    return call, tuple(inputs.values())


@pytest.mark.parametrize("mapped", [False, True], ids=["ids", "expert_map"])
@pytest.mark.parametrize("routed", [False, True], ids=["all-slots", "topk_ids"])
@pytest.mark.parametrize("permuted", [False, True], ids=["in-place", "inv_permuted_idx"])
def test_fused_gradcheck(device: torch.device, permuted: bool, routed: bool, mapped: bool, rng: torch.Generator) -> None:
    inputs = fused_inputs(permuted, device, rng)
    routing: Inputs = {"inv_permuted_idx": INDEX.to(device)} if permuted else {}
    if routed:
        routing["topk_ids"] = IDS.to(device)
    if mapped:
        routing["topk_ids"] = IDS.to(device)
        routing["expert_map"] = EXPERT_MAP.to(device)
    call, arguments = fused(inputs, routing)
    assert torch.autograd.gradcheck(call, arguments)


@pytest.mark.parametrize("wanted", ["input", "topk_weights", "shared_output"])
def test_a_gradient_of_one_alone(device: torch.device, wanted: str, rng: torch.Generator) -> None:
    inputs = {
        name: tensor if name == wanted else tensor.detach() for name, tensor in fused_inputs(True, device, rng).items()
    }
    call, arguments = fused(inputs, {"inv_permuted_idx": INDEX.to(device)})
    assert torch.autograd.gradcheck(call, arguments)


def test_skipped_rows_get_zeros(device: torch.device, rng: torch.Generator) -> None:
    """Also where they hold NaN, which a mask that multiplies would keep."""
    rows = random_values((ROWS, HIDDEN), torch.float32, rng)
    read = sorted({index for index in INDEX.flatten().tolist() if 0 <= index < ROWS})
    unread = [row for row in range(ROWS) if row not in read]
    rows[unread] = torch.nan
    rows = rows.to(device).requires_grad_()
    weights = torch.ones(TOKENS, TOPK, device=device, requires_grad=True)
    moe_cute.sum_reduce(rows, topk_weights=weights, inv_permuted_idx=INDEX.to(device)).sum().backward()
    assert_same_bits(rows.grad[unread], torch.zeros(len(unread), HIDDEN))
    assert_same_bits(rows.grad[read], torch.ones(len(read), HIDDEN))
    skipped = ((INDEX < 0) | (INDEX >= ROWS)).to(device)
    assert_same_bits(weights.grad[skipped], torch.zeros(int(skipped.sum())))
    assert bool(torch.isfinite(weights.grad).all())


def test_the_gradient_of_weights_is_a_float32_dot_product(device: torch.device, rng: torch.Generator) -> None:
    """Each product of 16-bit values is exact in float32, and integers this small add up exactly in any order."""
    integers = lambda *shape: torch.randint(-8, 9, shape, generator=rng).to(torch.bfloat16)  # noqa: E731
    input, upstream = integers(3, 4, 512), integers(3, 512)
    weights = torch.ones(3, 4, device=device, requires_grad=True)
    moe_cute.sum_reduce(input.to(device), topk_weights=weights).backward(upstream.to(device))
    assert_same_bits(weights.grad, (input.float() * upstream.float()[:, None]).sum(-1))


def test_gradients_are_the_same_each_time(device: torch.device, rng: torch.Generator) -> None:
    inputs = {name: tensor.detach().float() for name, tensor in fused_inputs(True, device, rng).items()}
    index = {"inv_permuted_idx": INDEX.to(device)}
    results = []
    for _ in range(3):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
        call, arguments = fused(leaves, index)
        results.append(torch.autograd.grad(call(*arguments).square().sum(), arguments))
    for again in results[1:]:
        for actual, expected in zip(again, results[0], strict=True):
            assert_same_bits(actual, expected)


def test_compiled_fused_gradient(device: torch.device, rng: torch.Generator) -> None:
    torch.compiler.reset()
    inputs = fused_inputs(True, device, rng)
    call, arguments = fused(inputs, {"inv_permuted_idx": INDEX.to(device), "topk_ids": IDS.to(device)})
    eager = torch.autograd.grad(call(*arguments).square().sum(), arguments)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(torch.autograd.grad(compiled(*arguments).square().sum(), arguments), eager, strict=True):
        assert_same_bits(actual, expected)
