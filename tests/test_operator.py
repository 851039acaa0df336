"""torch.ops.moe_cute as torch sees it: schema, fake tensors, compilation, transforms, threads."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import moe_cute
from moe_cute._operator import OPTIONAL_TENSORS
from tests.calls import FULLEST, SCALE, fused_call, random_values
from tests.reference import FLOATS, assert_same_bits, sum_reduce
from tests.variants import EPILOGUES

SUM_REDUCE = torch.ops.moe_cute.sum_reduce.default
SUM_REDUCE_OUT = torch.ops.moe_cute.sum_reduce_out.default


def operator_calls(device: torch.device, rng: torch.Generator) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """(input, scale) and keywords of one call for each epilogue, and one for each of the options."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for fusion in FULLEST.values():
        (input, _, scale), tensors, _ = fused_call(fusion, 3, 4, 16, torch.float32, rng).place(device)
        calls.append(((input, scale), tensors))
    plain = random_values((3, 4, 16), torch.float32, rng).to(device)
    calls += [((plain,), {"out_dtype": torch.bfloat16}), ((plain, 2.0), {"pdl": False})]
    calls += [((plain,), {"variant": moe_cute.explain(plain).variant})]
    return calls


def test_opcheck(device: torch.device, rng: torch.Generator) -> None:
    for arguments, keywords in operator_calls(device, rng):
        # num_tokens leaves rows of a fresh output as they are: two runs differ there, which opcheck takes for an error.
        keywords.pop("num_tokens", None)
        torch.library.opcheck(SUM_REDUCE, arguments, keywords)


def test_opcheck_with_gradients(device: torch.device, rng: torch.Generator) -> None:
    input = random_values((3, 4, 16), torch.float64, rng).to(device).requires_grad_()
    torch.library.opcheck(SUM_REDUCE, (input, 2.0))


def test_opcheck_out(device: torch.device, rng: torch.Generator) -> None:
    for (input, *scale), keywords in operator_calls(device, rng):
        hidden = input.shape[-1]
        output = torch.zeros(3, hidden, dtype=keywords.pop("out_dtype", input.dtype), device=device)
        torch.library.opcheck(SUM_REDUCE_OUT, (input, output, *scale), keywords)


def test_schemas_tell_what_is_written() -> None:
    assert not SUM_REDUCE._schema.is_mutable
    written = [argument.name for argument in SUM_REDUCE_OUT._schema.arguments if argument.is_write]
    assert written == ["output"]


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_operator_and_function_agree(device: torch.device, epilogue: str, rng: torch.Generator) -> None:
    for dtype in FLOATS:
        call = fused_call(FULLEST[epilogue], 5, 6, 72, dtype, rng)
        expected = call.run(device)
        arguments, tensors, out = call.place(device)
        SUM_REDUCE_OUT(*arguments, **tensors)
        out.assert_written_inside_only(rows=call.live_tokens)
        assert_same_bits(out.view[: call.live_tokens], expected)
        input, _, scale = arguments
        assert_same_bits(SUM_REDUCE(input, scale, **tensors)[: call.live_tokens], expected)


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_fake_tensors(device: torch.device, epilogue: str, rng: torch.Generator) -> None:
    (input, _, scale), tensors, _ = fused_call(FULLEST[epilogue], 3, 4, 16, torch.bfloat16, rng).place(device)
    with FakeTensorMode() as mode:
        fakes: dict[str, Any] = {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}
        made = moe_cute.sum_reduce(mode.from_tensor(input), None, scale, **fakes)
        given = torch.empty(3, 16, dtype=torch.bfloat16, device=device)
        assert moe_cute.sum_reduce(mode.from_tensor(input), given, scale, **fakes) is given
    assert (made.shape, made.dtype, made.device.type) == ((3, 16), torch.bfloat16, device.type)


def test_meta_tensors() -> None:
    input = torch.empty(3, 4, 16, dtype=torch.float32, device="meta")
    made = moe_cute.sum_reduce(input, out_dtype=torch.float16)
    assert (made.shape, made.dtype, made.device.type) == ((3, 16), torch.float16, "meta")
    rows = torch.empty(30, 16, dtype=torch.float64, device="meta")
    index = torch.empty(7, 2, dtype=torch.int32, device="meta")
    made = moe_cute.sum_reduce(rows, inv_permuted_idx=index)
    assert (made.shape, made.dtype) == ((7, 16), torch.float64)


WRONG_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "input": ({"input": torch.ones(3, 4, 16).int()}, r"input: was of dtype int32"),
    "complex": ({"input": torch.ones(3, 4, 16, dtype=torch.complex64)}, r"input: was of dtype complex64"),
    "out_dtype": ({"out_dtype": torch.int32}, r"out_dtype: was torch.int32"),
    "float64": ({"out_dtype": torch.float64}, r"out_dtype: was torch.float64; allowed: float32 as the input"),
    "topk_weights": ({"topk_weights": torch.ones(9, 9)}, r"topk_weights: was of shape \[9, 9\].* = \[3, 4\]"),
    "expert_map": ({"expert_map": torch.ones(4).int()}, r"expert_map: was given without topk_ids"),
    "output": ({"output": torch.ones(9, 9, 9)}, r"output: was of shape \[9, 9, 9\]"),
}


@pytest.mark.parametrize("kind", ["fake", "meta"])
@pytest.mark.parametrize("wrong", WRONG_CALLS)
def test_without_values_the_same_is_refused(wrong: str, kind: str) -> None:
    changed, message = WRONG_CALLS[wrong]
    mode = FakeTensorMode()
    place = mode.from_tensor if kind == "fake" else lambda tensor: tensor.to("meta")
    arguments = {"input": torch.ones(3, 4, 16)} | changed
    arguments = {name: place(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    with mode if kind == "fake" else nullcontext(), pytest.raises((TypeError, ValueError), match=f"^{message}"):
        moe_cute.sum_reduce(**arguments)


def test_what_compiles_is_checked_with_symbols_for_sizes() -> None:
    compiled = torch.compile(moe_cute.sum_reduce, fullgraph=True, dynamic=True, backend="eager")
    with pytest.raises(Exception, match=r"topk_weights: was of shape \[3, 5\]; allowed: \[tokens, topk\] = \[3, 4\]"):
        compiled(torch.ones(3, 4, 16), topk_weights=torch.ones(3, 5))


# Compilation


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def test_compiled_once_for_every_token_count(device: torch.device, rng: torch.Generator) -> None:
    """With neighbours that inductor makes itself, and a token count that is a symbol."""
    compilations = CompileCounterWithBackend("inductor")

    @torch.compile(fullgraph=True, dynamic=True, backend=compilations)
    def finalize(input: Tensor) -> Tensor:
        return moe_cute.sum_reduce(input * 2, None, SCALE).relu()

    frames = []
    for tokens in (2, 3, 64, 257):
        input = random_values((tokens, 4, 48), torch.float32, rng)
        assert_same_bits(finalize(input.to(device)), sum_reduce(input * 2, SCALE).relu())
        frames.append(compilations.frame_count)
    # Dynamo asks the backend twice for the first: it takes the scale for a symbol, and starts over with its value.
    assert frames[0] in (1, 2) and set(frames) == {frames[0]}


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_compiled_into_a_given_output(device: torch.device, epilogue: str, rng: torch.Generator) -> None:
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def finalize(input: Tensor, output: Tensor, tensors: dict[str, Any]) -> Tensor:
        return moe_cute.sum_reduce(input, output, SCALE, **tensors)

    for tokens in (2, 5, 9):
        call = fused_call(FULLEST[epilogue], tokens, 4, 48, torch.bfloat16, rng)
        (input, output, _), tensors, out = call.place(device)
        assert finalize(input, output, tensors) is output
        out.assert_written_inside_only(rows=call.live_tokens)
        assert_same_bits(output[: call.live_tokens], call.expected())


def test_compiled_gradient(device: torch.device, rng: torch.Generator) -> None:
    compiled = torch.compile(
        lambda input: moe_cute.sum_reduce(input, None, 3.0).square(), fullgraph=True, backend="aot_eager"
    )
    values = random_values((3, 4, 16), torch.float64, rng).to(device)
    eager_leaf, compiled_leaf = values.clone().requires_grad_(), values.clone().requires_grad_()
    moe_cute.sum_reduce(eager_leaf, None, 3.0).square().sum().backward()
    compiled(compiled_leaf).sum().backward()
    assert eager_leaf.grad is not None
    assert compiled_leaf.grad is not None
    assert_same_bits(compiled_leaf.grad, eager_leaf.grad)


def test_refused_while_compiling() -> None:
    scale: Any = "2"
    compiled = torch.compile(lambda input: moe_cute.sum_reduce(input, None, scale), backend="eager")
    with pytest.raises(Exception, match="routed_scaling_factor: was of type str"):
        compiled(torch.zeros(3, 2, 8))


# Modes, transforms, threads


def test_signature() -> None:
    """The short way in hides neither the options nor a misspelt one."""
    parameters = inspect.signature(moe_cute.sum_reduce).parameters.values()
    assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == [
        "input",
        "output",
        "routed_scaling_factor",
    ]
    assert {each.name for each in parameters if each.kind is each.KEYWORD_ONLY} == {
        *OPTIONAL_TENSORS,
        "out_dtype",
        "variant",
        "pdl",
    }
    input, output = torch.zeros(3, 2, 8), torch.zeros(3, 8)
    with pytest.raises(TypeError, match="unexpected keyword argument 'topk_weight'"):
        moe_cute.sum_reduce(input, output, topk_weight=None)  # type: ignore[call-arg]


def test_inference_mode(device: torch.device, rng: torch.Generator) -> None:
    values = random_values((3, 4, 16), torch.float32, rng)
    outside = torch.empty(3, 16, device=device)
    with torch.inference_mode():
        input = values.to(device)
        made, given = moe_cute.sum_reduce(input), torch.empty(3, 16, device=device)
        moe_cute.sum_reduce(input, given)
        moe_cute.sum_reduce(input, outside)
        assert made.is_inference()
    moe_cute.sum_reduce(input, given)  # an inference tensor has no version to count
    for result in (made, given, outside):
        assert_same_bits(result, sum_reduce(values))


def test_autograd_notices_the_write(device: torch.device) -> None:
    """The output's version counter tells: what autograd saved of it is not what is there any more."""
    output = torch.ones(3, 16, device=device)
    leaf = torch.ones(3, 16, device=device, requires_grad=True)
    for call in (moe_cute.sum_reduce, SUM_REDUCE_OUT):
        product = leaf * output
        version = output._version
        call(torch.ones(3, 2, 16, device=device), output)
        assert output._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


def test_vmap(device: torch.device, rng: torch.Generator) -> None:
    """Over a batch of layers, or refused: never a wrong result."""
    values = random_values((5, 3, 4, 16), torch.float32, rng)
    try:
        actual = torch.vmap(moe_cute.sum_reduce)(values.to(device))
    except RuntimeError as error:
        assert "vmap" in str(error) or "Batching rule" in str(error)
        return
    assert_same_bits(actual, torch.stack([sum_reduce(layer) for layer in values]))


def test_functorch_gradient(device: torch.device, rng: torch.Generator) -> None:
    values = random_values((3, 4, 16), torch.float64, rng).to(device)
    gradient = torch.func.grad(lambda input: moe_cute.sum_reduce(input, None, 3.0).sum())(values)
    assert_same_bits(gradient, torch.full_like(values, 3.0))


@pytest.mark.filterwarnings("ignore:.*performance drop")
@pytest.mark.parametrize("permuted", [False, True], ids=["in-place", "inv_permuted_idx"])
def test_functorch_transforms_within_each_other(device: torch.device, permuted: bool, rng: torch.Generator) -> None:
    """Each of functorch's levels has gradients of its own."""
    index = torch.tensor([[0, 4, 2], [5, 4, 9]], device=device)
    arguments = [
        random_values(shape, torch.float64, rng).to(device)
        for shape in [(6, 5) if permuted else (2, 3, 5), (2, 3), (2, 5)]
    ]
    options = {"inv_permuted_idx": index} if permuted else {}

    def ours(input: Tensor, weights: Tensor, shared: Tensor) -> Tensor:
        output = moe_cute.sum_reduce(input, None, 2.0, topk_weights=weights, shared_output=shared, **options)
        return output.square().sum().sin()

    def theirs(input: Tensor, weights: Tensor, shared: Tensor) -> Tensor:
        rows = torch.cat([input, input.new_zeros(1, 5)])[index.clamp(max=6)] if permuted else input
        return ((rows * weights[..., None]).sum(1) * 2.0 + shared).square().sum().sin()

    def gradient(call: Any) -> Any:
        return torch.func.grad(call, argnums=(0, 1, 2))

    batches = [torch.stack([each, each * 2]) for each in arguments]
    for transformed, given in [
        (gradient, arguments),
        (lambda call: torch.func.jacrev(gradient(call), argnums=(0, 1, 2)), arguments),
        (lambda call: torch.vmap(gradient(call)), batches),
        (lambda call: gradient(lambda *batch: torch.vmap(call)(*batch).sum()), batches),
        (lambda call: torch.compile(gradient(call), fullgraph=True, backend="aot_eager"), arguments),
    ]:
        torch.testing.assert_close(transformed(ours)(*given), transformed(theirs)(*given))


def test_a_functorch_pullback_after_its_transform(device: torch.device) -> None:
    """What was saved within it is used after it has ended."""
    _, pullback = torch.func.vjp(lambda input: moe_cute.sum_reduce(input).square(), torch.ones(3, 4, 16, device=device))
    upstream = torch.ones(3, 16, device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(pullback(upstream)[0].sum(), upstream)
    assert_same_bits(gradient, torch.full((3, 16), 32.0))


TANGENT = "was a tensor with a tangent"


def test_forward_mode_is_refused(device: torch.device) -> None:
    """Else torch would return no tangent, or one of zeros."""
    input, weights = torch.ones(2, 3, 8, device=device), torch.ones(2, 3, device=device)
    output = torch.zeros(2, 8, device=device)
    for transform in (
        lambda call: torch.func.jvp(call, (input,), (input,)),
        lambda call: torch.func.jacfwd(call)(input),
    ):
        for call in (moe_cute.sum_reduce, SUM_REDUCE):
            with pytest.raises(NotImplementedError, match=f"^input: {TANGENT}"):
                transform(call)
    with pytest.raises(NotImplementedError, match=TANGENT):
        torch.func.hessian(lambda input: moe_cute.sum_reduce(input).sum())(input)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weights, weights)
        with pytest.raises(NotImplementedError, match=f"^topk_weights: {TANGENT}"):
            moe_cute.sum_reduce(input, topk_weights=dual)
        with pytest.raises(NotImplementedError, match=f"^topk_weights: {TANGENT}"):
            SUM_REDUCE(input, topk_weights=dual)
        written = forward_ad.make_dual(output, output)  # its tangent would outlive the write
        for call in (moe_cute.sum_reduce, SUM_REDUCE_OUT):
            with pytest.raises(NotImplementedError, match=f"^output: {TANGENT}"):
                call(input, written)
        assert bool((output == 0).all())
        assert_same_bits(moe_cute.sum_reduce(input), torch.full((2, 8), 3.0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_holds_the_call(device: torch.device, rng: torch.Generator) -> None:
    first, second = (torch.randn(2, 3, 8, generator=rng).to(device) for _ in range(2))
    traced = torch.jit.trace(lambda input: moe_cute.sum_reduce(input, None, 2.0), (first,))
    assert_same_bits(traced(second), moe_cute.sum_reduce(second, None, 2.0))


def test_a_negative_view_is_not_misread(device: torch.device) -> None:
    """A tensor whose sign is pending: torch's lazy negation, of imaginary parts of conjugates."""
    negative = torch.complex(torch.zeros(3, 2, 8), torch.ones(3, 2, 8)).to(device).conj().imag
    assert negative.is_neg()
    assert_same_bits(moe_cute.sum_reduce(negative), torch.full((3, 8), -2.0))
    plain = torch.ones(3, 2, 8, device=device)
    output = torch.complex(torch.zeros(3, 8), torch.zeros(3, 8)).to(device).conj().imag
    moe_cute.sum_reduce(plain, output)
    assert_same_bits(output.resolve_neg().contiguous(), torch.full((3, 8), 2.0))
    shared = torch.complex(torch.zeros(3, 8), torch.ones(3, 8)).to(device).conj().imag
    assert_same_bits(moe_cute.sum_reduce(plain, shared_output=shared), torch.full((3, 8), 1.0))


class Labelled(Tensor):
    """A subclass that torch looks after itself."""


def test_subclasses(device: torch.device, rng: torch.Generator) -> None:
    values = random_values((3, 4, 16), torch.float32, rng)
    for wrapped in (
        torch.nn.Parameter(values.to(device), requires_grad=False),
        values.to(device).as_subclass(Labelled),
    ):
        assert_same_bits(moe_cute.sum_reduce(wrapped).as_subclass(Tensor), sum_reduce(values))


def test_many_threads_at_once(device: torch.device, rng: torch.Generator) -> None:
    """Each with shapes of its own: what a thread remembers is its own affair."""
    calls = [
        fused_call(FULLEST[epilogue], 3, 2 + n, 40 + n, torch.bfloat16, rng) for n in range(8) for epilogue in EPILOGUES
    ]
    with ThreadPoolExecutor(8) as pool:
        for call, result in zip(calls * 4, pool.map(lambda call: call.run(device), calls * 4), strict=True):
            assert_same_bits(result, call.expected())
