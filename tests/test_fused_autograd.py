"""Gradients of the fused call: to the input, also through inv_permuted_idx, to topk_weights and to shared_output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.calls import random_values
from tests.reference import assert_same_bits

TOKENS, TOPK, HIDDEN, ROWS = 4, 3, 5, 14
INDEX = torch.tensor([[0, 5, -1], [7, 13, 2], [99, 3, 4], [-1, -1, -1]])  # 99 lies past the end; no row is read twice
IDS = torch.tensor([[0, 1, 2], [3, -1, 0], [1, 9, 1], [0, 0, 0]])
EXPERT_MAP = torch.tensor([0, -1, 1, 2], dtype=torch.int32)

Inputs = dict[str, Any]


def fused_inputs(permuted: bool, device: torch.device, rng: torch.Generator) -> Inputs:
    """What a gradient is asked for."""
    shape = (ROWS, HIDDEN) if permuted else (TOKENS, TOPK, HIDDEN)
    shapes = {"input": shape, "topk_weights": (TOKENS, TOPK), "shared_output": (TOKENS, HIDDEN)}
    return {name: random_values(size, torch.float64, rng).to(device).requires_grad_() for name, size in shapes.items()}


def fused(inputs: Inputs, routing: Inputs) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    def call(input: Tensor, *others: Tensor) -> Tensor:
        named: dict[str, Any] = dict(zip(list(inputs)[1:], others, strict=True))
        return moe_cute.sum_reduce(input, None, 2.5, **named, **routing)

    return call, tuple(inputs.values())


@pytest.mark.parametrize("routed_by", [[], ["topk_ids"], ["topk_ids", "expert_map"]], ids=" and ".join)
@pytest.mark.parametrize("permuted", [False, True], ids=["in-place", "inv_permuted_idx"])
def test_gradcheck(device: torch.device, permuted: bool, routed_by: list[str], rng: torch.Generator) -> None:
    available = {"topk_ids": IDS, "expert_map": EXPERT_MAP, "inv_permuted_idx": INDEX}
    names = [*routed_by, *(["inv_permuted_idx"] if permuted else [])]
    routing = {name: available[name].to(device) for name in names}
    call, arguments = fused(fused_inputs(permuted, device, rng), routing)
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
    output = moe_cute.sum_reduce(rows, topk_weights=weights, inv_permuted_idx=INDEX.to(device))
    rows_gradient, weights_gradient = torch.autograd.grad(output.sum(), (rows, weights))
    assert_same_bits(rows_gradient[unread], torch.zeros(len(unread), HIDDEN))
    assert_same_bits(rows_gradient[read], torch.ones(len(read), HIDDEN))
    skipped = ((INDEX < 0) | (INDEX >= ROWS)).to(device)
    assert_same_bits(weights_gradient[skipped], torch.zeros(int(skipped.sum())))
    assert bool(torch.isfinite(weights_gradient).all())


def test_the_gradient_of_weights_is_a_float32_dot_product(device: torch.device, rng: torch.Generator) -> None:
    """Each product of 16-bit values is exact in float32, and integers this small add up exactly in any order."""
    integers = lambda *shape: torch.randint(-8, 9, shape, generator=rng).to(torch.bfloat16)  # noqa: E731
    input, upstream = integers(3, 4, 512), integers(3, 512)
    weights = torch.ones(3, 4, device=device, requires_grad=True)
    output = moe_cute.sum_reduce(input.to(device), topk_weights=weights)
    (gradient,) = torch.autograd.grad(output, weights, upstream.to(device))
    assert_same_bits(gradient, (input.float() * upstream.float()[:, None]).sum(-1))


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
    for actual, expected in zip(
        torch.autograd.grad(compiled(*arguments).square().sum(), arguments), eager, strict=True
    ):
        assert_same_bits(actual, expected)
