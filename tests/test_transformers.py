"""Experts of transformers as "moe_cute" computes them: against their eager forward, and no worse than "grouped_mm"."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.reference import assert_same_bits

transformers = pytest.importorskip("transformers", minversion="5.17", reason="needs transformers 5.17 or later")

from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation  # noqa: E402

from moe_cute.integrations.transformers import _sort_key_dtype, experts_forward, register  # noqa: E402

INTEGRATION = "moe_cute.integrations.transformers"
DTYPES = (torch.float32, torch.bfloat16)
EXPERTS, TOPK, HIDDEN, INTERMEDIATE = 8, 4, 32, 48  # sizes in multiples of 16 bytes, as grouped GEMMs want them
TOKENS = 37

Results = dict[str, Tensor]


@pytest.fixture(autouse=True)
def registered() -> None:
    register()


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Whatever a kernel allocates and does not write is NaN: so are the skipped rows behind a grouped GEMM."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to the expected values'."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm())


def random(rng: torch.Generator, *shape: int) -> Tensor:
    """Numbers that are the same in every dtype."""
    return torch.randn(shape, generator=rng).bfloat16().float()


def assert_no_worse(actual: Results, peer: Results, expected: Results, factor: float, epsilons: float) -> None:
    for name, value in expected.items():
        allowed = factor * error(peer[name], value) + epsilons * torch.finfo(actual[name].dtype).eps
        assert error(actual[name], value) <= allowed, (name, error(actual[name], value), allowed)


# Models


def tiny_config(model: str) -> "transformers.PreTrainedConfig":
    # One layer: behind a second, experts chosen by a rounding error would be others.
    sizes = {"vocab_size": 64, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if model == "qwen3_moe":
        own = {"num_experts": EXPERTS, "num_experts_per_tok": TOPK, "moe_intermediate_size": 16, "norm_topk_prob": True}
    else:
        own = {"num_local_experts": EXPERTS, "num_experts_per_tok": {"mixtral": 2, "gpt_oss": TOPK}[model]}
    return transformers.AutoConfig.for_model(model, **sizes, **heads, **tokens, **own)


def tiny_model(name: str, dtype: torch.dtype, device: torch.device, rng: torch.Generator) -> torch.nn.Module:
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(name), dtype=dtype, attn_implementation="eager")
    return randomised(model, rng).to(device)


def randomised(module: torch.nn.Module, rng: torch.Generator) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(random(rng, *parameter.shape) * 0.25)
    return module


def train_step(model: torch.nn.Module, token_ids: Tensor, implementation: str) -> Results:
    """The logits, and the gradient of every parameter."""
    model.set_experts_implementation(implementation)
    model.zero_grad()
    output = model(token_ids, labels=token_ids)
    output.loss.backward()
    return {"logits": output.logits, **{name: parameter.grad for name, parameter in model.named_parameters()}}


# Eager rounds too. Where grouped_mm happens to round in the same way (Mixtral's two slots in float32), it has no error
# to be held against; in 150 random models of each kind the gradients then differed by up to 2.9 epsilons.
EPSILONS = 4
# gpt-oss has two attention sinks, whose gradients are small differences of large numbers: there they were up to 56
# epsilons off in float32 and 13 in bfloat16, and up to 3.7 and 1.6 (on a GPU once 5.9) more than twice as far as with
# grouped_mm. A result rounded to bfloat16 on its way would be thousands off in float32.
SINK_EPSILONS = {torch.float32: 64, torch.bfloat16: 5}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_model_matches_eager(name: str, dtype: torch.dtype, device: torch.device, rng: torch.Generator) -> None:
    model = tiny_model(name, dtype, device, rng)
    token_ids = torch.randint(64, (2, 24), generator=rng).to(device)
    eager, peer, actual = (train_step(model, token_ids, each) for each in ("eager", "grouped_mm", "moe_cute"))
    sinks = {name: eager.pop(name) for name in list(eager) if name.endswith(".sinks")}
    assert_no_worse(actual, peer, eager, factor=2, epsilons=EPSILONS)
    assert_no_worse(actual, peer, sinks, factor=2, epsilons=SINK_EPSILONS[dtype])


def test_model_generates(rng: torch.Generator) -> None:
    model = tiny_model("qwen3_moe", torch.float32, torch.device("cpu"), rng)
    prompt = torch.randint(3, 64, (2, 5), generator=rng)
    model.set_experts_implementation("eager")
    expected = model.generate(prompt, max_new_tokens=4, do_sample=False)
    model.set_experts_implementation("moe_cute")
    assert torch.equal(model.generate(prompt, max_new_tokens=4, do_sample=False), expected)


# Experts modules of every kind


def experts_module(
    rng: torch.Generator,
    has_gate: bool = True,
    has_bias: bool = False,
    is_transposed: bool = False,
    has_norm: bool = False,
) -> torch.nn.Module:
    """Random experts in float32, whose eager forward sends every token through every expert."""
    up_name, up_size = ("gate_up_proj", 2 * INTERMEDIATE) if has_gate else ("up_proj", INTERMEDIATE)
    norm: dict[str, Any] = {"has_post_expert_norm": True} if has_norm else {}

    @use_experts_implementation(has_gate=has_gate, has_bias=has_bias, is_transposed=is_transposed, **norm)
    class Experts(torch.nn.Module):
        def __init__(self, config: SimpleNamespace) -> None:
            super().__init__()
            self.num_experts = EXPERTS
            self.act_fn = torch.nn.SiLU()
            for name, inputs, outputs in ((up_name, HIDDEN, up_size), ("down_proj", INTERMEDIATE, HIDDEN)):
                size = (inputs, outputs) if is_transposed else (outputs, inputs)
                setattr(self, name, torch.nn.Parameter(torch.empty(EXPERTS, *size)))
                if has_bias:
                    setattr(self, f"{name}_bias", torch.nn.Parameter(torch.empty(EXPERTS, outputs)))
            if has_norm:
                self.post_expert_norm = torch.nn.RMSNorm(HIDDEN, eps=1e-5)

        def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
            rows = self.linear(hidden_states, up_name)
            rows = self.linear(self._apply_gate(rows) if has_gate else self.act_fn(rows), "down_proj")
            if has_norm:
                rows = self.post_expert_norm(rows)
            tokens = torch.arange(len(hidden_states), device=hidden_states.device)
            slots = rows[top_k_index.clamp(max=EXPERTS - 1), tokens[:, None]]
            weights = top_k_weights.masked_fill(top_k_index == EXPERTS, 0.0)
            return (weights[..., None] * slots).sum(1)

        def linear(self, rows: Tensor, name: str) -> Tensor:
            weight = getattr(self, name)
            result = rows @ (weight if is_transposed else weight.transpose(1, 2))
            return result + getattr(self, f"{name}_bias")[:, None] if has_bias else result

    return randomised(Experts(SimpleNamespace(_experts_implementation="eager")), rng)


def routing(rng: torch.Generator, skipping: bool = False) -> tuple[Tensor, Tensor]:
    """Ids and weights, [TOKENS, TOPK]; where `skipping`, the first token has no slot and others lack some."""
    ids = torch.rand(TOKENS, EXPERTS, generator=rng).argsort(1)[:, :TOPK]
    ids[ids == 5] = 6  # an expert without a row, and one that some tokens have twice
    weights = random(rng, TOKENS, TOPK)
    if skipping:
        elsewhere = torch.rand(TOKENS, TOPK, generator=rng) < 0.5
        elsewhere[0] = True
        ids, weights = ids.masked_fill(elsewhere, EXPERTS), weights.masked_fill(elsewhere, 0.0)
    return ids, weights


def run(
    experts: torch.nn.Module,
    implementation: str,
    dtype: torch.dtype,
    hidden_states: Tensor,
    ids: Tensor,
    weights: Tensor,
) -> Results:
    """The output, and the gradients of everything, with all numbers in `dtype`."""
    experts.config._experts_implementation = implementation
    experts.zero_grad()
    experts.to(dtype)
    hidden_states, weights = (each.detach().to(dtype, copy=True).requires_grad_() for each in (hidden_states, weights))
    output = experts(hidden_states, ids, weights)
    output.square().sum().backward()
    parameters = {name: parameter.grad for name, parameter in experts.named_parameters()}
    return {"output": output, "hidden_states": hidden_states.grad, "top_k_weights": weights.grad, **parameters}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skipping", [False, True], ids=["all-local", "some-skipped"])
@pytest.mark.parametrize("is_transposed", [False, True], ids=["out-in", "in-out"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("has_gate", [False, True], ids=["no-gate", "gate"])
def test_experts_match_float64(
    has_gate: bool,
    has_bias: bool,
    is_transposed: bool,
    skipping: bool,
    dtype: torch.dtype,
    device: torch.device,
    rng: torch.Generator,
    poisoned_memory: None,
) -> None:
    check_against_float64(experts_module(rng, has_gate, has_bias, is_transposed), skipping, dtype, device, rng)


@pytest.mark.skipif(
    "has_post_expert_norm" not in inspect.signature(use_experts_implementation).parameters,
    reason="this version of transformers knows no norm behind an expert",
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skipping", [False, True], ids=["all-local", "some-skipped"])
def test_a_norm_behind_each_expert(
    skipping: bool, dtype: torch.dtype, device: torch.device, rng: torch.Generator, poisoned_memory: None
) -> None:
    check_against_float64(experts_module(rng, has_norm=True), skipping, dtype, device, rng)


# uint8 holds the ids of 255 experts and 255 itself, which skips a slot; int16 those of more.
@pytest.mark.parametrize("experts", [255, 256])
def test_many_experts(
    experts: int, device: torch.device, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, poisoned_memory: None
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "EXPERTS", experts)
    check_against_float64(experts_module(rng), True, torch.float32, device, rng)


@pytest.mark.parametrize(("experts", "itemsize"), [(1, 1), (255, 1), (256, 2), (32767, 2), (32768, 8)])
def test_sort_keys_are_the_narrowest_that_hold_every_id(experts: int, itemsize: int) -> None:
    dtype = _sort_key_dtype(experts)
    assert dtype.itemsize == itemsize
    assert torch.tensor(experts).to(dtype).item() == experts


def check_against_float64(
    experts: torch.nn.Module, skipping: bool, dtype: torch.dtype, device: torch.device, rng: torch.Generator
) -> None:
    experts.to(device)
    experts._is_expert_parallel = skipping  # else grouped_mm of transformers 5.24 expects no skipped slots
    operands = tuple(each.to(device) for each in (random(rng, TOKENS, HIDDEN), *routing(rng, skipping)))
    exact = run(experts, "eager", torch.float64, *operands)
    peer, actual = (run(experts, implementation, dtype, *operands) for implementation in ("grouped_mm", "moe_cute"))
    # Weights' gradients are dots of few elements, in another order than the peer's: one of 250 random ones passed 0.5.
    assert_no_worse(actual, peer, exact, factor=1.25, epsilons=1.0)


def test_experts_of_a_later_kind_are_refused(rng: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module(INTEGRATION), "_UNKNOWN_KINDS", ("has_pre_expert_norm",))
    experts = experts_module(rng)
    operands = (random(rng, TOKENS, HIDDEN), *routing(rng))
    experts_forward(experts, *operands)
    experts.has_pre_expert_norm = True
    with pytest.raises(NotImplementedError, match=r"self: was experts with has_pre_expert_norm; allowed: those of"):
        experts_forward(experts, *operands)


@pytest.mark.parametrize("tokens", [0, 1])
def test_few_tokens(tokens: int, device: torch.device, rng: torch.Generator) -> None:
    experts = experts_module(rng).to(device)
    ids, weights = (each[:tokens].to(device) for each in routing(rng))
    hidden_states = random(rng, tokens, HIDDEN).to(device)
    torch.testing.assert_close(
        experts_forward(experts, hidden_states, ids, weights), experts(hidden_states, ids, weights)
    )


@pytest.mark.parametrize("experts", [8, 256])  # ids sorted as uint8 and as int16
@pytest.mark.parametrize("beyond", [0, 1, 250, 1 << 16, (1 << 32) - 1])
def test_any_id_past_the_experts_skips_its_slot(
    beyond: int, experts: int, device: torch.device, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "EXPERTS", experts)
    module = experts_module(rng).to(device)
    module._is_expert_parallel = True
    ids, weights = (each.to(device) for each in routing(rng, skipping=True))
    hidden_states = random(rng, TOKENS, HIDDEN).to(device)
    with torch.no_grad():
        expected = experts_forward(module, hidden_states, ids, weights)
        actual = experts_forward(module, hidden_states, ids.where(ids < experts, ids + beyond), weights)
    assert_same_bits(actual, expected, beyond)


def test_experts_that_do_not_say_whether_slots_are_skipped(rng: torch.Generator, poisoned_memory: None) -> None:
    """As in transformers 5.17: some may be."""
    experts = experts_module(rng, has_bias=True)
    operands = (random(rng, TOKENS, HIDDEN), *routing(rng, skipping=True))
    experts._is_expert_parallel = True
    expected = run(experts, "moe_cute", torch.float32, *operands)
    del experts._is_expert_parallel
    for name, value in run(experts, "moe_cute", torch.float32, *operands).items():
        assert torch.equal(value, expected[name]), name


def test_vmap_over_routings(rng: torch.Generator) -> None:
    experts = experts_module(rng)
    hidden_states = random(rng, TOKENS, HIDDEN)
    ids, weights = (torch.stack(each) for each in zip(*(routing(rng) for _ in range(3)), strict=True))
    with torch.no_grad():
        found = torch.vmap(experts_forward, (None, None, 0, 0))(experts, hidden_states, ids, weights)
        for actual, each in zip(found, zip(ids, weights, strict=True), strict=True):
            assert_same_bits(actual, experts_forward(experts, hidden_states, *each), "vmap")


@pytest.mark.parametrize("weights_dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("hidden_dtype", [*DTYPES, torch.float16], ids=str)
def test_mixed_dtypes(
    hidden_dtype: torch.dtype, weights_dtype: torch.dtype, device: torch.device, rng: torch.Generator
) -> None:
    """As autocast hands them over: the output is of the dtype of the hidden states."""
    experts = experts_module(rng).to(device, torch.bfloat16)
    ids, weights = (each.to(device) for each in routing(rng))
    hidden_states, weights = random(rng, TOKENS, HIDDEN).to(device, hidden_dtype), weights.to(weights_dtype)
    peer, actual = (
        ALL_EXPERTS_FUNCTIONS[name](experts, hidden_states, ids, weights) for name in ("grouped_mm", "moe_cute")
    )
    assert actual.dtype is hidden_dtype
    exact = experts.double()(hidden_states.double(), ids, weights.double())
    assert_no_worse({"output": actual}, {"output": peer}, {"output": exact}, factor=1.25, epsilons=0.5)


def test_compiled(device: torch.device, rng: torch.Generator) -> None:
    if device.type == "cpu" and torch.__version__ < "2.11":
        pytest.skip("transformers' own grouped_mm asks a CPU tensor's data_ptr(), which torch 2.10 cannot compile")
    torch.compiler.reset()
    experts = experts_module(rng, has_bias=True).to(device, torch.bfloat16)
    experts._is_expert_parallel = True
    experts.config._experts_implementation = "moe_cute"
    ids, weights = (each.to(device) for each in routing(rng, skipping=True))
    hidden_states = random(rng, TOKENS, HIDDEN).to(device, torch.bfloat16)
    parameters = list(experts.parameters())

    def results(call: Callable[..., Tensor], tokens: int) -> tuple[Tensor, ...]:
        output = call(hidden_states[:tokens], ids[:tokens], weights[:tokens])
        return output, *torch.autograd.grad(output.float().square().sum(), parameters)

    compiled = torch.compile(experts, fullgraph=True, backend="aot_eager")
    for tokens in (TOKENS, TOKENS - 8, TOKENS - 16):  # the second makes the count dynamic
        for actual, expected in zip(results(compiled, tokens), results(experts, tokens), strict=True):
            assert_same_bits(actual, expected, tokens)


NEEDED_PASSES = ["index", "_grouped_mm", "silu", "mul", "_grouped_mm", "sum_reduce"]


class RowPasses(TorchDispatchMode):
    """Records the operators that take or give a tensor with a row of numbers for each slot; views are no passes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in (*args, result) if isinstance(each, Tensor)]
        if not func.is_view and any(each.dim() == 2 and len(each) == TOKENS * TOPK for each in tensors):
            self.names.append(func.overloadpacket.__name__)
        return result


def test_inference_makes_no_pass_that_it_need_not(rng: torch.Generator) -> None:
    experts = experts_module(rng).bfloat16()
    ids, weights = routing(rng, skipping=True)
    with torch.no_grad(), RowPasses() as passes:
        experts_forward(experts, random(rng, TOKENS, HIDDEN).bfloat16(), ids, weights)
    assert passes.names == NEEDED_PASSES


def test_training_masks_nothing_where_no_slot_is_skipped(rng: torch.Generator) -> None:
    experts = experts_module(rng).bfloat16()
    experts._is_expert_parallel = False
    with RowPasses() as passes:
        experts_forward(experts, random(rng, TOKENS, HIDDEN).bfloat16(), *routing(rng))
    assert passes.names == NEEDED_PASSES


# Registration


def test_registering_again_changes_nothing() -> None:
    before = dict(ALL_EXPERTS_FUNCTIONS)
    assert register() == "moe_cute"
    assert dict(ALL_EXPERTS_FUNCTIONS) == before
    assert ALL_EXPERTS_FUNCTIONS["moe_cute"] is experts_forward


@pytest.mark.parametrize("version", ["4.57.1", "5.16.0", "6.0.0.dev0"])
def test_other_versions_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, INTEGRATION)
    monkeypatch.setattr("transformers.__version__", version)
    with pytest.raises(ImportError, match=rf"transformers: was {version}; allowed: 5\.17 or a later 5\.x"):
        importlib.import_module(INTEGRATION)


def test_missing_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, INTEGRATION)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"transformers: was not installed; allowed: 5\.17 or a later 5\.x"):
        importlib.import_module(INTEGRATION)
