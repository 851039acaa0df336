"""The functions that stand in for other packages' own: their signatures, their semantics, and their bits."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import peers
from moe_cute.compat import sgl_kernel, vllm
from tests.calls import SCALE, Fusion, fused_call, plain_call, random_values
from tests.memory import canvas
from tests.reference import FLOATS, assert_same_bits, sum_reduce


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_signatures() -> None:
    assert parameters(sgl_kernel.moe_sum_reduce) == ["input", "output", "routed_scaling_factor"]
    assert parameters(vllm.moe_sum) == ["input", "output", "topk_ids", "expert_map"]
    assert parameters(vllm.moe_unpermute) == [
        "permuted_hidden_states",
        "topk_weights",
        "inv_permuted_idx",
        "expert_first_token_offset",
        "topk",
        "hidden_states",
    ]


def test_nothing_is_computed_into_nowhere() -> None:
    input, rows, weights = torch.ones(2, 3, 8), torch.ones(6, 8), torch.ones(2, 3)
    index, output = torch.arange(6, dtype=torch.int32), torch.zeros(2, 8)
    for name, call in {
        "output": lambda: sgl_kernel.moe_sum_reduce(input, None, 1.0),  # type: ignore[arg-type]
        "output ": lambda: vllm.moe_sum(input, None),  # type: ignore[arg-type]
        "hidden_states": lambda: vllm.moe_unpermute(rows, weights, index, None, 3, None),  # type: ignore[arg-type]
        "topk_weights": lambda: vllm.moe_unpermute(rows, None, index, None, 3, output),  # type: ignore[arg-type]
    }.items():
        with pytest.raises(TypeError, match=f"^{name.strip()}: was of type NoneType; allowed: a torch.Tensor"):
            call()
    with pytest.raises(ValueError, match=r"^topk: was 2; allowed: as many slots as topk_weights \[2, 3\] has"):
        vllm.moe_unpermute(rows, weights, index, None, 2, output)
    with pytest.raises(ValueError, match=r"^topk_weights: was of shape \[6\]; allowed: shape \[tokens, topk\]"):
        vllm.moe_unpermute(rows, weights.flatten(), index, None, 3, output)
    with pytest.raises(TypeError, match=r"^topk: was of type str; allowed: an int"):
        vllm.moe_unpermute(rows, weights, index, None, "3", output)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^inv_permuted_idx: was of shape \[5\]; allowed: that of topk_weights"):
        vllm.moe_unpermute(rows, weights, index[:5], None, 3, output)
    assert bool((output == 0).all())


INDEX = torch.arange(6, dtype=torch.int32)
OFFSET = torch.tensor([0, 6])


@pytest.mark.parametrize(
    ("argument", "value", "error", "was"),
    [
        ("permuted_hidden_states", torch.ones(2, 3, 8), ValueError, r"of shape \[2, 3, 8\]"),
        ("permuted_hidden_states", torch.ones(6, 8).int(), TypeError, "of dtype int32"),
        ("permuted_hidden_states", torch.ones(6, 8).to_sparse(), TypeError, "of layout torch.sparse_coo"),
        ("hidden_states", torch.zeros(2, 9), ValueError, r"of shape \[2, 9\]"),
        ("hidden_states", torch.zeros(2, 8).double(), TypeError, "of dtype float64"),
        ("topk_weights", torch.ones(2, 3).int(), TypeError, "of dtype int32"),
        ("inv_permuted_idx", INDEX.view(3, 2), ValueError, r"of shape \[3, 2\]"),
        ("inv_permuted_idx", INDEX.view(6, 1), ValueError, r"of shape \[6, 1\]"),
        ("inv_permuted_idx", INDEX.view(1, 2, 3), ValueError, r"of shape \[1, 2, 3\]"),
        ("inv_permuted_idx", INDEX.to_sparse(), TypeError, "of layout torch.sparse_coo"),
        ("inv_permuted_idx", INDEX.to(torch.uint32), TypeError, "of dtype uint32"),
        ("expert_first_token_offset", OFFSET.view(1, 2), ValueError, r"of shape \[1, 2\]"),
        ("expert_first_token_offset", OFFSET.expand(3, 2), ValueError, r"of shape \[3, 2\]"),
        ("expert_first_token_offset", OFFSET[1], ValueError, r"of shape \[\]"),
        ("expert_first_token_offset", OFFSET[:0], ValueError, r"of shape \[0\]"),
        ("expert_first_token_offset", OFFSET.double(), TypeError, "of dtype float64"),
        ("expert_first_token_offset", OFFSET.to("meta"), ValueError, "on meta"),
        ("expert_first_token_offset", OFFSET.to_sparse(), TypeError, "of layout torch.sparse_coo"),
        ("expert_first_token_offset", 6, TypeError, "of type int"),
        ("expert_first_token_offset", [0, 6], TypeError, "of type list"),
        ("expert_first_token_offset", 6.0, TypeError, "of type float"),
    ],
)
def test_unpermute_refuses_by_its_own_names(argument: str, value: Any, error: type[Exception], was: str) -> None:
    output = torch.zeros(2, 8)
    arguments: dict[str, Any] = {
        "permuted_hidden_states": torch.ones(6, 8),
        "topk_weights": torch.ones(2, 3),
        "inv_permuted_idx": INDEX,
        "expert_first_token_offset": OFFSET,
        "topk": 3,
        "hidden_states": output,
    }
    with pytest.raises(error, match=rf"^{argument}: was {was}; allowed: "):
        vllm.moe_unpermute(**arguments | {argument: value})
    assert bool((output == 0).all())
    vllm.moe_unpermute(**arguments)
    assert bool((output == 3).all())


def test_unpermute_names_its_other_arguments_too() -> None:
    output, weights = torch.zeros(2, 8), torch.ones(2, 3)
    with pytest.raises(TypeError, match=r"allowed: float32 or the permuted_hidden_states's bfloat16$"):
        vllm.moe_unpermute(torch.ones(6, 8, dtype=torch.bfloat16), weights.double(), INDEX, None, 3, output)
    with pytest.raises(ValueError, match=r"^hidden_states: was given while permuted_hidden_states requires grad"):
        vllm.moe_unpermute(torch.ones(6, 8, requires_grad=True), weights, INDEX, None, 3, output)


def test_unpermute_of_no_slots() -> None:
    output = torch.ones(2, 8)
    vllm.moe_unpermute(torch.ones(6, 8), torch.ones(2, 0), torch.ones(2, 0, dtype=torch.int32), None, 0, output)
    assert bool((output == 0).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sgl_moe_sum_reduce(device: torch.device, dtype: torch.dtype, rng: torch.Generator) -> None:
    call = plain_call(5, 8, 72, dtype, rng)
    (input, output, scale), _, out = call.place(device)
    sgl_kernel.moe_sum_reduce(input, output, scale)
    out.assert_written_inside_only()
    assert_same_bits(output, call.expected())
    sgl_kernel.moe_sum_reduce(input, output)  # the default is theirs, 0
    assert_same_bits(output, sum_reduce(call.input, 0.0))


@pytest.mark.parametrize(
    "fusion", [Fusion(), Fusion(ids="ids"), Fusion(ids="map")], ids=["plain", "topk_ids", "expert_map"]
)
def test_vllm_moe_sum(device: torch.device, fusion: Fusion, rng: torch.Generator) -> None:
    for dtype in FLOATS:  # float64 too, which theirs has not
        call = fused_call(fusion, 5, 4, 72, dtype, rng)
        (input, output, _), tensors, out = call.place(device)
        vllm.moe_sum(input, output, **tensors)
        out.assert_written_inside_only()
        assert_same_bits(output, sum_reduce(call.input, **call.tensors))


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("flat", [False, True], ids=["matrix", "flat"])
@pytest.mark.parametrize("local_rows", [None, 0, 7, 20])
def test_vllm_moe_unpermute(
    device: torch.device, local_rows: int | None, flat: bool, index_dtype: torch.dtype, rng: torch.Generator
) -> None:
    """Rows from the last offset on belong to no local expert: they hold NaN here, and are not read."""
    tokens, topk, hidden = 5, 4, 72
    rows = random_values((tokens * topk, hidden), torch.bfloat16, rng)
    index = torch.randperm(tokens * topk, generator=rng).view(tokens, topk).to(index_dtype)
    weights = torch.rand(tokens, topk, generator=rng)
    local = tokens * topk if local_rows is None else local_rows
    expected = sum_reduce(rows, topk_weights=weights, inv_permuted_idx=torch.where(index < local, index, -1))
    rows[local:] = torch.nan
    offsets = None if local_rows is None else torch.tensor([0, local // 2, local], device=device)
    out = canvas((tokens, hidden), torch.bfloat16, device)
    given_index = (index.flatten() if flat else index).to(device)
    vllm.moe_unpermute(rows.to(device), weights.to(device), given_index, offsets, topk, out.view)
    out.assert_written_inside_only()
    assert_same_bits(out.view, expected)


# Beside the real ones


def loaded(peer: peers.PeerFile) -> None:
    try:
        peers.load_library(peer)
    except (peers.PeerError, OSError, RuntimeError) as error:
        pytest.skip(f"{peer.distribution} does not load: {error}")


def poison(input: Tensor) -> Tensor:
    return torch.full((input.shape[0], input.shape[2]), torch.nan, dtype=input.dtype, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_bits_of_sgl(dtype: torch.dtype, rng: torch.Generator) -> None:
    loaded(peers.SGL_KERNEL)
    for tokens in (1, 16, 256, 257, 1024):  # it changes kernels after 256
        for topk in (2, 4, 6, 8, 9, 10, 16):
            for hidden in (2048, 2880, 7168, 112):  # multiples of 16: of others it has left columns unwritten
                input = random_values((tokens, topk, hidden), dtype, rng).cuda()
                expected, actual = poison(input), poison(input)
                torch.ops.sgl_kernel.moe_sum_reduce(input, expected, SCALE)
                sgl_kernel.moe_sum_reduce(input, actual, SCALE)
                assert_same_bits(actual, expected, (tokens, topk, hidden))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_near_vllm(dtype: torch.dtype, rng: torch.Generator) -> None:
    """Its kernel may add in the dtype itself, so that the two differ by roundings, of which each slot has one."""
    loaded(peers.VLLM_MOE)
    for topk in (2, 8):
        input = random_values((64, topk, 2048), dtype, rng).cuda()
        expected, actual = poison(input), poison(input)
        torch.ops._moe_C.moe_sum(input, expected, None, None)
        vllm.moe_sum(input, actual)
        allowed = topk * torch.finfo(dtype).eps * input.abs().double().sum(1)
        assert bool(((expected.double() - actual.double()).abs() <= allowed).all())
