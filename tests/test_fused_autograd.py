"""Gradients of the fused call: to the input, also through inv_permuted_idx, to topk_weights and to shared_output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.calls import random_values
from tests.reference import CHANGES_OF_DTYPE, assert_same_bits

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


def test_compiled_autograd(device: torch.device, rng: torch.Generator) -> None:
    """The backward pass compiled while it runs."""
    torch.compiler.reset()
    call, arguments = fused(fused_inputs(True, device, rng), {"inv_permuted_idx": INDEX.to(device)})
    eager = torch.autograd.grad(call(*arguments).square().sum(), arguments)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        call(*arguments).square().sum().backward()
    for actual, expected in zip(arguments, eager, strict=True):
        assert_same_bits(actual.grad, expected)


ALL_OPTIONS = {"topk_ids": IDS, "expert_map": EXPERT_MAP, "inv_permuted_idx": INDEX}
READ_BY_SEVERAL = torch.tensor([[0, 5, 5], [5, 13, 0], [99, 3, 0], [-1, 5, -1]])


@pytest.mark.parametrize(
    "index", [INDEX, READ_BY_SEVERAL, READ_BY_SEVERAL.int()], ids=["each-once", "several", "int32"]
)
def test_rows_that_several_slots_read(device: torch.device, index: Tensor, rng: torch.Generator) -> None:
    call, arguments = fused(fused_inputs(True, device, rng), {"inv_permuted_idx": index.to(device)})
    assert torch.autograd.gradcheck(call, arguments)


@pytest.mark.parametrize("options", [[], ["topk_ids"], list(ALL_OPTIONS)], ids=" and ".join)
def test_gradients_have_gradients(device: torch.device, options: list[str], rng: torch.Generator) -> None:
    routing = {name: ALL_OPTIONS[name].to(device) for name in options}
    call, arguments = fused(fused_inputs("inv_permuted_idx" in options, device, rng), routing)
    assert torch.autograd.gradgradcheck(call, arguments)


@pytest.mark.filterwarnings("ignore:.*performance drop")
@pytest.mark.parametrize("options", [["topk_ids"], ["inv_permuted_idx"]], ids=" and ".join)
def test_vectorised_second_derivatives(device: torch.device, options: list[str], rng: torch.Generator) -> None:
    routing = {name: ALL_OPTIONS[name].to(device) for name in options}
    call, arguments = fused(fused_inputs("inv_permuted_idx" in options, device, rng), routing)
    one_by_one, vectorised = (
        torch.autograd.functional.hessian(lambda *each: call(*each).square().sum(), arguments, vectorize=vectorize)
        for vectorize in (False, True)
    )
    torch.testing.assert_close(vectorised, one_by_one)


@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.float64], ids=str)
def test_weights_keep_their_dtype(device: torch.device, weights_dtype: torch.dtype, rng: torch.Generator) -> None:
    input, upstream = (random_values(shape, torch.float64, rng).to(device) for shape in [(4, 3, 5), (4, 5)])
    weights = torch.ones(4, 3, dtype=weights_dtype, device=device, requires_grad=True)
    moe_cute.sum_reduce(input, topk_weights=weights).backward(upstream)
    torch.testing.assert_close(weights.grad, torch.einsum("tkh,th->tk", input, upstream).to(weights_dtype))


@pytest.mark.parametrize("live", [-1, 0, 3, 4, 9])
@pytest.mark.parametrize("options", [[], ["topk_ids"], ["inv_permuted_idx"]], ids=" and ".join)
def test_dead_tokens_have_no_gradient(
    device: torch.device, options: list[str], live: int, rng: torch.Generator
) -> None:
    """As if their slots were skipped and their outputs did not depend on anything, whatever they hold."""
    kept = min(max(live, 0), TOKENS)
    inputs = fused_inputs("inv_permuted_idx" in options, device, rng)
    upstream = random_values((TOKENS, HIDDEN), torch.float64, rng).to(device)
    routing = {name: ALL_OPTIONS[name].to(device) for name in options}
    call, arguments = fused(inputs, routing)
    of_live = torch.autograd.grad(call(*arguments)[:kept], arguments, upstream[:kept])

    routing["num_tokens"] = torch.tensor([live], dtype=torch.int32, device=device)
    call, _ = fused(inputs, routing)
    poisoned = [tensor.detach().clone() for tensor in arguments]
    for tensor in poisoned:
        if tensor.shape[0] == TOKENS:
            tensor[kept:] = torch.nan
    leaves = [tensor.requires_grad_() for tensor in poisoned]
    upstream[kept:] = torch.nan
    for actual, expected in zip(torch.autograd.grad(call(*leaves), leaves, upstream), of_live, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize(("dtype", "out_dtype"), CHANGES_OF_DTYPE, ids=str)
@pytest.mark.parametrize("permuted", [False, True], ids=["in-place", "inv_permuted_idx"])
def test_gradients_through_another_dtype(
    device: torch.device, permuted: bool, dtype: torch.dtype, out_dtype: torch.dtype, rng: torch.Generator
) -> None:
    """Integers small enough for every dtype and every order of sums."""

    def integers(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randint(-2, 3, shape, generator=rng).to(device, dtype)

    input = integers(*((ROWS, 16) if permuted else (TOKENS, TOPK, 16)), dtype=dtype).requires_grad_()
    weights = integers(TOKENS, TOPK, dtype=dtype).requires_grad_()
    shared = integers(TOKENS, 16, dtype=out_dtype).requires_grad_()
    routing = {"inv_permuted_idx": INDEX.to(device)} if permuted else {"topk_ids": IDS.to(device)}
    upstream = integers(TOKENS, 16, dtype=out_dtype)

    leaves = (input, weights, shared)
    output = moe_cute.sum_reduce(
        input, None, 2.0, topk_weights=weights, shared_output=shared, out_dtype=out_dtype, **routing
    )
    actual = torch.autograd.grad(output, leaves, upstream)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    output = moe_cute.sum_reduce(wide[0], None, 2.0, topk_weights=wide[1], shared_output=wide[2], **routing)
    for gradient, leaf, expected in zip(
        actual, leaves, torch.autograd.grad(output, wide, upstream.double()), strict=True
    ):
        assert_same_bits(gradient, expected.to(leaf.dtype))


def test_an_expanded_gradient(device: torch.device, rng: torch.Generator) -> None:
    """What the backward of a sum hands on has no strides of its own."""
    inputs = fused_inputs(True, device, rng)
    call, arguments = fused(inputs, {"inv_permuted_idx": INDEX.to(device)})
    expanded = torch.autograd.grad(call(*arguments).sum(), arguments)
    dense = torch.autograd.grad(
        call(*arguments), arguments, torch.ones(TOKENS, HIDDEN, dtype=torch.float64, device=device)
    )
    for actual, expected in zip(expanded, dense, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("wanted", ["input", "topk_weights"])
def test_the_input_is_kept_for_the_weights_alone(device: torch.device, wanted: str) -> None:
    input, weights = torch.ones(2, 3, 8, device=device), torch.ones(2, 3, device=device)
    leaf = {"input": input, "topk_weights": weights}[wanted].requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        moe_cute.sum_reduce(input, topk_weights=weights)
    assert leaf.requires_grad
    assert (input.shape in kept) == (wanted == "topk_weights")


@pytest.mark.gpu
def test_the_backward_pass_does_not_synchronise(rng: torch.Generator) -> None:
    inputs = fused_inputs(True, torch.device("cuda"), rng)
    routing = {name: tensor.cuda() for name, tensor in ALL_OPTIONS.items()}
    routing["num_tokens"] = torch.tensor(3, dtype=torch.int32, device="cuda")
    call, arguments = fused(inputs, routing)
    torch.autograd.grad(call(*arguments).sum(), arguments)  # loads the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(call(*arguments).sum(), arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_the_devices_agree_bit_for_bit(rng: torch.Generator) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        inputs = {
            name: tensor.detach().to(dtype) for name, tensor in fused_inputs(True, torch.device("cpu"), rng).items()
        }
        results = []
        for device in ("cpu", "cuda"):
            leaves = {name: tensor.to(device).requires_grad_() for name, tensor in inputs.items()}
            call, arguments = fused(leaves, {name: tensor.to(device) for name, tensor in ALL_OPTIONS.items()})
            results.append(torch.autograd.grad(call(*arguments).square().sum(), arguments))
        for actual, expected in zip(*results, strict=True):
            assert_same_bits(actual, expected)
