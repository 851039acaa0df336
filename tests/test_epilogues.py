"""The finalize step in one pass: weights, skipped slots, permuted rows, the shared expert, live tokens, dtypes."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.calls import FULLEST, SCALE, Fusion, Keywords, fused_call, random_values
from tests.memory import OUTPUT_LAYOUTS, canvas, placed
from tests.reference import FLOATS, assert_same_bits, sum_reduce
from tests.variants import Variant, variants_where

TOKENS, TOPK = 5, 6


def output_dtypes(dtype: torch.dtype) -> list[torch.dtype]:
    if dtype is torch.float64:
        return [torch.float64]
    if dtype is torch.float32:
        return [torch.float32, torch.float16, torch.bfloat16]
    return [dtype, torch.float32]


def every_fusion(dtype: torch.dtype) -> list[Fusion]:
    fusions = product(
        (None, "float32", "input"),
        (None, "ids", "map"),
        (None, torch.int32, torch.int64),
        (None, "own", "output"),
        output_dtypes(dtype),
        (None, 3),
    )
    return [Fusion(*fusion) for fusion in fusions]


@pytest.mark.parametrize("hidden", [64, 19])  # whole vectors of every width, and none
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_combination(device: torch.device, dtype: torch.dtype, hidden: int, rng: torch.Generator) -> None:
    for fusion in every_fusion(dtype):
        fused_call(fusion, TOKENS, TOPK, hidden, dtype, rng).check(device)


WEIGHTED = [Fusion(weights="float32"), Fusion(weights="input"), Fusion(shared="own"), Fusion(shared="output")]
ONE_AT_A_TIME = [
    *WEIGHTED,
    Fusion(rows=torch.int32),
    Fusion(rows=torch.int64),
    Fusion(ids="ids"),
    Fusion(ids="map"),
    Fusion(live_tokens=2),
    Fusion(weights="float32", ids="map", rows=torch.int64, shared="output", live_tokens=3),
]


@pytest.mark.parametrize("variant", variants_where(lambda variant: variant.epilogue != "plain"))
def test_every_variant(variant: Variant, rng: torch.Generator) -> None:
    permuted = [replace(fusion, rows=rows) for rows in (torch.int32, torch.int64) for fusion in (Fusion(), *WEIGHTED)]
    usable = {"weighted": WEIGHTED, "permuted": permuted, "routed": ONE_AT_A_TIME}[variant.epilogue]
    width = variant.vector_width
    for fusion in usable:
        for hidden in (width, 37 * width):
            fused_call(fusion, 3, variant.topk or 5, hidden, variant.dtype, rng).check(variant.backend, variant.name)
    if variant.epilogue == "routed":
        for out_dtype in output_dtypes(variant.dtype):
            call = fused_call(
                Fusion(shared="own", out_dtype=out_dtype), 3, variant.topk or 5, 3 * width, variant.dtype, rng
            )
            call.check(variant.backend, variant.name)


@pytest.mark.parametrize(
    "topk", [0, 1, 2, 4, 6, 7, 8, 9, 10, 33]
)  # each specialised loop, chunks of four, and none at all
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_topk(device: torch.device, dtype: torch.dtype, topk: int, rng: torch.Generator) -> None:
    for fusion in ONE_AT_A_TIME:
        fused_call(fusion, 4, topk, 96, dtype, rng).check(device)


def test_the_engines_sizes(device: torch.device, rng: torch.Generator) -> None:
    for fusion in ONE_AT_A_TIME:
        for tokens, topk, hidden in [(1, 8, 2048), (2, 8, 7168), (3, 10, 4096), (5, 4, 2880)]:
            fused_call(fusion, tokens, topk, hidden, torch.bfloat16, rng).check(device)


# Strides


@pytest.mark.parametrize("strides", [(TOPK, 1), (1, TOKENS), (2 * TOPK + 3, 2), (0, 1), (1, 0), (0, 0)], ids=str)
def test_strides_of_the_slots(device: torch.device, strides: tuple[int, int], rng: torch.Generator) -> None:
    """Weights, ids and rows [tokens, topk] each with these strides, and an expert_map of every second element."""
    distinct = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)

    def spread(values: Tensor) -> Tensor:
        return values[distinct].expand(TOKENS, TOPK)

    input = random_values((40, 72), torch.bfloat16, rng)
    tensors: Keywords = {
        "topk_weights": spread(random_values((TOKENS, TOPK), torch.float32, rng)),
        "topk_ids": spread(torch.randint(-1, 6, (TOKENS, TOPK), generator=rng, dtype=torch.int32)),
        "inv_permuted_idx": spread(torch.randint(-1, 42, (TOKENS, TOPK), generator=rng)),
    }
    expert_map = torch.randint(-1, 2, (5,), generator=rng, dtype=torch.int32)
    expected = sum_reduce(input, SCALE, **tensors, expert_map=expert_map)
    strided: Keywords = {name: placed_slots(values, strides, device) for name, values in tensors.items()}
    every_second = expert_map.repeat_interleave(2).to(device)[::2]
    assert_same_bits(moe_cute.sum_reduce(input.to(device), None, SCALE, **strided, expert_map=every_second), expected)


def placed_slots(values: Tensor, strides: tuple[int, int], device: torch.device) -> Tensor:
    distinct = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    view = torch.full((200,), -77, dtype=values.dtype, device=device).as_strided(values.shape, strides, 5)
    view[distinct].copy_(values[distinct])
    return view


@pytest.mark.parametrize("variant", variants_where(lambda variant: variant.epilogue != "plain"))
def test_every_variant_where_slots_are_no_neighbours(variant: Variant, rng: torch.Generator) -> None:
    """Weights, ids and rows with an element between any two: no wide loads of them."""
    topk, hidden = variant.topk or 5, 37 * variant.vector_width
    call = fused_call(FULLEST[variant.epilogue], 3, topk, hidden, variant.dtype, rng)
    arguments, tensors, out = call.place(variant.backend)
    for name in {"topk_weights", "topk_ids", "inv_permuted_idx"} & tensors.keys():
        tensors[name] = placed_slots(call.tensors[name], (2 * topk, 2), tensors[name].device)
    moe_cute.sum_reduce(*arguments, **tensors, variant=variant.name)
    out.assert_written_inside_only(rows=call.live_tokens)
    assert_same_bits(out.view[: call.live_tokens], call.expected(), variant.name)


@pytest.mark.parametrize("shared_layout", OUTPUT_LAYOUTS)
@pytest.mark.parametrize("output_layout", OUTPUT_LAYOUTS)
def test_strides_of_shared_output(
    device: torch.device, output_layout: str, shared_layout: str, rng: torch.Generator
) -> None:
    for hidden in (64, 41):
        values = random_values((TOKENS, TOPK, hidden), torch.float16, rng)
        shared = random_values((TOKENS, hidden), torch.float16, rng)
        strides, offset = OUTPUT_LAYOUTS[shared_layout]
        placed_shared = placed(shared, device, strides(TOKENS, hidden), offset)
        strides, offset = OUTPUT_LAYOUTS[output_layout]
        out = canvas((TOKENS, hidden), torch.float16, device, strides(TOKENS, hidden), offset)
        moe_cute.sum_reduce(values.to(device), out.view, SCALE, shared_output=placed_shared)
        out.assert_written_inside_only()
        assert_same_bits(out.view, sum_reduce(values, SCALE, shared_output=shared))
        assert_same_bits(placed_shared, shared)


@pytest.mark.parametrize("strides", [(80, 1), (83, 1), (1, 40), (160, 2), (0, 1)], ids=str)
def test_strides_of_permuted_rows(device: torch.device, strides: tuple[int, int], rng: torch.Generator) -> None:
    rows = random_values((40, 64), torch.bfloat16, rng)
    rows = rows[:1].expand(40, 64) if strides[0] == 0 else rows
    index = torch.randint(40, (TOKENS, TOPK), generator=rng)
    actual = moe_cute.sum_reduce(placed(rows, device, strides), None, SCALE, inv_permuted_idx=index.to(device))
    assert_same_bits(actual, sum_reduce(rows, SCALE, inv_permuted_idx=index))


# Skipped slots


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_extreme_ids(device: torch.device, index_dtype: torch.dtype, rng: torch.Generator) -> None:
    info = torch.iinfo(index_dtype)
    ids = torch.tensor([[info.min, info.max, -1, 0, 3, 4]], dtype=index_dtype)
    values = random_values((1, 6, 33), torch.float32, rng)
    expert_map = torch.tensor([2, -1, -1, 0], dtype=torch.int32)
    for tensors, live in (
        ({}, [1, 3, 4, 5]),
        ({"expert_map": expert_map}, [3, 4]),
        ({"expert_map": expert_map[:0]}, []),
    ):
        poisoned = torch.full_like(values, torch.nan)
        poisoned[:, live] = values[:, live]
        mapped: Keywords = {name: tensor.to(device) for name, tensor in tensors.items()}
        actual = moe_cute.sum_reduce(poisoned.to(device), topk_ids=ids.to(device), **mapped)
        assert_same_bits(actual, sum_reduce(values[:, live]))


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_extreme_rows(device: torch.device, index_dtype: torch.dtype, rng: torch.Generator) -> None:
    info = torch.iinfo(index_dtype)
    rows = random_values((4, 33), torch.float32, rng)
    index = torch.tensor([[info.min, 3, info.max, -1, 4, 0, 3]], dtype=index_dtype)
    actual = moe_cute.sum_reduce(rows.to(device), inv_permuted_idx=index.to(device))
    assert_same_bits(actual, sum_reduce(rows[None, [3, 0, 3]]))


def test_no_rows_at_all(device: torch.device) -> None:
    """A rank without tokens of its own: an input of no rows, which has no address either."""
    rows = torch.empty(0, 24, dtype=torch.bfloat16, device=device)
    for index in (torch.full((3, 2), -1), torch.zeros(3, 2, dtype=torch.int64)):
        out = canvas((3, 24), torch.bfloat16, device)
        moe_cute.sum_reduce(rows, out.view, inv_permuted_idx=index.to(device))
        out.assert_written_inside_only()
        assert_same_bits(out.view, torch.zeros(3, 24, dtype=torch.bfloat16))


def test_all_slots_skipped(device: torch.device) -> None:
    input = torch.full((3, 2, 24), torch.nan, device=device)
    ids = torch.full((3, 2), -1, dtype=torch.int32, device=device)
    assert_same_bits(moe_cute.sum_reduce(input, None, -1.0, topk_ids=ids), torch.full((3, 24), -0.0))
    shared = torch.full((3, 24), 7.0, device=device)
    assert_same_bits(moe_cute.sum_reduce(input, topk_ids=ids, shared_output=shared), torch.full((3, 24), 7.0))


def test_a_skipped_slot_may_have_any_weight(device: torch.device) -> None:
    input = torch.ones(1, 3, 24, device=device)
    weights = torch.tensor([[torch.nan, 2.0, torch.inf]], device=device)
    ids = torch.tensor([[-1, 0, -5]], device=device)
    actual = moe_cute.sum_reduce(input, topk_weights=weights, topk_ids=ids)
    assert_same_bits(actual, torch.full((1, 24), 2.0))


# Live tokens


@pytest.mark.parametrize("live", [-(2**31), -1, 0, 1, 4, 5, 6, 2**31 - 1])  # 5 is the capacity
def test_num_tokens(device: torch.device, live: int, rng: torch.Generator) -> None:
    for hidden in (2048, 64, 19):
        call = fused_call(Fusion(live_tokens=live), TOKENS, TOPK, hidden, torch.bfloat16, rng)
        call.input[call.live_tokens :] = torch.nan
        call.check(device)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)], ids=str)
def test_num_tokens_of_any_rank(device: torch.device, shape: tuple[int, ...]) -> None:
    count = torch.tensor([2], dtype=torch.int32, device=device).view(shape)
    out = canvas((3, 16), torch.float32, device)
    moe_cute.sum_reduce(torch.ones(3, 2, 16, device=device), out.view, num_tokens=count)
    out.assert_written_inside_only(rows=2)


def test_dead_tokens_index_nothing(device: torch.device) -> None:
    """Ids, rows and weights of dead tokens are not looked at, whatever they hold."""
    rows = torch.ones(4, 32, device=device)
    index = torch.tensor([[0, 1], [2**31 - 1, -(2**31)]], dtype=torch.int32, device=device)
    count = torch.tensor(1, dtype=torch.int32, device=device)
    out = canvas((2, 32), torch.float32, device)
    weights = torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]], device=device)
    moe_cute.sum_reduce(rows, out.view, topk_weights=weights, inv_permuted_idx=index, num_tokens=count)
    out.assert_written_inside_only(rows=1)
    assert_same_bits(out.view[:1], torch.full((1, 32), 3.0))


@pytest.mark.gpu
def test_num_tokens_is_read_on_the_device(rng: torch.Generator) -> None:
    """A graph captured at a capacity beyond what the GPU holds at once follows the count."""
    input = random_values((2048, 8, 2048), torch.bfloat16, rng)
    on_gpu, count = input.cuda(), torch.zeros(1, dtype=torch.int32, device="cuda")
    out = canvas((2048, 2048), torch.bfloat16, "cuda")
    moe_cute.sum_reduce(on_gpu, out.view, SCALE, num_tokens=count)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        moe_cute.sum_reduce(on_gpu, out.view, SCALE, num_tokens=count)
    expected = sum_reduce(input, SCALE)
    for live in (0, 1, 64, 333, 2047, 2048):  # rising, so that every row is still poisoned before its turn
        count.fill_(live)
        graph.replay()
        out.assert_written_inside_only(rows=live)
        assert_same_bits(out.view[:live], expected[:live])
