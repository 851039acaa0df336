"""What the CPU's kernels do otherwise where a call is large."""

import pytest
import torch

import moe_cute
from tests.calls import FULLEST, SCALE, fused_call, random_values
from tests.reference import CHANGES_OF_DTYPE, assert_same_bits
from tests.variants import Variant, variants_where

CACHE_LINE = 64
LARGE = 1 << 20  # bytes of a thread's share that is written past the caches: kStreamingBytes, csrc/launch_cpu.hpp
SLOTS_AT_ONCE = 64  # of a token: LiveSlots::kMost, csrc/live_slots.hpp


@pytest.fixture
def one_thread(own_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("padding", [0, 3], ids=["whole_lines", "odd_rows"])
@pytest.mark.parametrize("variant", variants_where(lambda variant: variant.backend == "cpu"))
def test_a_large_result(variant: Variant, padding: int, rng: torch.Generator) -> None:
    """Row for row what smaller results are, which go through the caches."""
    topk = variant.topk or 3
    stride = 37 * CACHE_LINE // variant.dtype.itemsize + padding
    hidden = stride - 5  # vectors, and elements that none covers
    tokens = LARGE // (hidden * variant.dtype.itemsize) + 1
    # Rows of the input overlap, to be large in tokens alone.
    base = random_values((tokens + topk * stride,), variant.dtype, rng)
    inputs = base.as_strided((tokens, topk, hidden), (1, stride, 1))
    fused = {}
    if variant.epilogue != "plain":
        fused["topk_weights"] = random_values((tokens, topk), torch.float32, rng)
        fused["shared_output"] = random_values((tokens, hidden), variant.dtype, rng)
    if variant.epilogue == "permuted":
        inputs = base.as_strided((tokens + topk, hidden), (1, 1))
        fused["inv_permuted_idx"] = torch.randint(-1, tokens + topk + 1, (tokens, topk), generator=rng)

    output = torch.empty(tokens, stride, dtype=variant.dtype).fill_(torch.nan)[:, :hidden]
    assert output.data_ptr() % CACHE_LINE == 0
    moe_cute.sum_reduce(inputs, output, SCALE, **fused, variant=variant.name)
    for first in range(0, tokens, 100):
        part = {name: tensor[first : first + 100] for name, tensor in fused.items()}
        input = inputs if variant.epilogue == "permuted" else inputs[first : first + 100]
        small = moe_cute.sum_reduce(input, None, SCALE, **part, variant=variant.name)
        assert_same_bits(output[first : first + 100], small, first)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("dtype", "out_dtype"), CHANGES_OF_DTYPE, ids=str)
def test_a_large_result_of_another_dtype(dtype: torch.dtype, out_dtype: torch.dtype, rng: torch.Generator) -> None:
    input = random_values((LARGE // 4096 + 1, 1, 2048), dtype, rng)
    large = moe_cute.sum_reduce(input, None, SCALE, out_dtype=out_dtype)
    small = [moe_cute.sum_reduce(rows, None, SCALE, out_dtype=out_dtype) for rows in input.split(100)]
    assert_same_bits(large, torch.cat(small))


@pytest.mark.parametrize(
    "variant", variants_where(lambda variant: variant.backend == "cpu" and variant.epilogue != "plain")
)
def test_many_slots(variant: Variant, rng: torch.Generator) -> None:
    for topk in (SLOTS_AT_ONCE, SLOTS_AT_ONCE + 1):
        hidden = 2 * variant.vector_width + 1
        fused_call(FULLEST[variant.epilogue], 3, topk, hidden, variant.dtype, rng).check("cpu", variant.name)


@pytest.mark.parametrize("hidden", [2048, 8192 + 1000], ids=["one_piece", "two_pieces"])
@pytest.mark.parametrize(("topk", "fused"), [(8, ()), (3, ()), (8, ("topk_weights",)), (8, ("inv_permuted_idx",))])
def test_an_input_larger_than_the_caches(topk: int, fused: tuple[str, ...], hidden: int, rng: torch.Generator) -> None:
    """Rows are asked for before they are read: those of the same token, then those of the next."""
    tokens = 36 * 2**20 // (topk * hidden * 2)
    input = random_values((tokens, topk, hidden), torch.bfloat16, rng)
    operands = {
        "topk_weights": torch.rand(tokens, topk, generator=rng),
        "inv_permuted_idx": torch.randperm(tokens * topk, generator=rng).view(tokens, topk) - topk,  # some skipped
    }
    chosen = {name: operands[name] for name in fused}
    rows = input.flatten(0, 1) if "inv_permuted_idx" in fused else input
    large = moe_cute.sum_reduce(rows, None, SCALE, **chosen)
    for first in range(0, tokens, 64):
        part = {name: tensor[first : first + 64] for name, tensor in chosen.items()}
        few = rows if "inv_permuted_idx" in fused else rows[first : first + 64]
        small = moe_cute.sum_reduce(few, None, SCALE, **part)
        assert_same_bits(large[first : first + 64], small, first)
