"""Sizes that only a GPU has room for: indices past 31 bits, and calls that take several launches."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import moe_cute
from tests import reference
from tests.calls import SCALE, plain_call
from tests.reference import FLOATS, differing

pytestmark = pytest.mark.gpu

GIB = 2**30


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("tokens", [524_287, 524_288, 524_289, 1_000_003])  # where a clamped grid has stopped before
def test_more_tokens_than_a_clamped_grid_reaches(dtype: torch.dtype, tokens: int, rng: torch.Generator) -> None:
    plain_call(tokens, 2, 8, dtype, rng).check("cuda")


@pytest.fixture
def room(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skips where the GPU lacks the memory, and gives it back afterwards."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < request.param * GIB:
        pytest.skip(f"needs {request.param} GiB of GPU memory, {free // GIB} are free")
    yield
    torch.cuda.empty_cache()


def needs_gib(gib: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("room", [gib], indirect=True, ids=lambda gib: f"{gib}GiB")


def random_input(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_()


def poisoned(*shape: int) -> Tensor:
    return torch.full(shape, torch.nan, dtype=torch.bfloat16, device="cuda")


def assert_matches(output: Tensor, input: Tensor) -> None:
    """All of it, in pieces of either dimension that leave room for float32 copies."""
    tokens, topk, hidden = input.shape
    columns = min(hidden, 2**24)
    rows = max(1, 2**27 // (topk * columns))
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    for row in range(0, tokens, rows):
        for column in range(0, hidden, columns):
            piece = (slice(row, row + rows), slice(column, column + columns))
            expected = reference.sum_reduce(input[piece[0], :, piece[1]], SCALE)
            wrong += differing(output[piece].contiguous(), expected).sum()
    assert wrong.item() == 0


@pytest.mark.large
@pytest.mark.usefixtures("room")
class TestLarge:
    @needs_gib(8)
    def test_input_of_more_than_2_to_31_elements(self) -> None:
        input = random_input(140_000, 8, 2048)
        output = poisoned(140_000, 2048)
        assert input.numel() > 2**31
        moe_cute.sum_reduce(input, output, SCALE)
        assert_matches(output, input)

    @needs_gib(36)
    def test_output_of_more_than_2_to_32_elements(self) -> None:
        input = random_input(600_001, 2, 7168)
        output = poisoned(600_001, 7168)
        assert output.numel() > 2**32
        moe_cute.sum_reduce(input, output, SCALE)
        assert_matches(output, input)

    @needs_gib(20)
    def test_more_vectors_than_one_launch(self) -> None:
        """Single elements, since hidden is odd: more of them than a 32-bit grid index covers in one launch."""
        input = random_input(360_000_007, 2, 7)
        output = poisoned(360_000_007, 7)
        assert output.numel() > 2**31
        moe_cute.sum_reduce(input, output, SCALE)
        assert_matches(output, input)

    @needs_gib(20)
    @pytest.mark.parametrize("live", [-(2**31), 200_000_007])  # it ends in the second launch, or before the first
    def test_live_tokens_of_more_vectors_than_one_launch(self, live: int) -> None:
        input = random_input(360_000_007, 2, 7)
        output = poisoned(360_000_007, 7)
        count = torch.tensor([live], dtype=torch.int32, device="cuda")
        moe_cute.sum_reduce(input, output, SCALE, num_tokens=count)
        written = max(live, 0)
        assert_matches(output[:written], input[:written])
        assert bool(output[written:].isnan().all()), "rows past the count were written"

    @needs_gib(24)
    def test_a_row_of_more_vectors_than_one_launch(self) -> None:
        hidden = 2**31 + 9
        input = random_input(2, 1, hidden)
        output = poisoned(2, hidden)
        moe_cute.sum_reduce(input, output, SCALE)
        assert_matches(output, input)

    @needs_gib(24)
    def test_misaligned_rows_past_2_to_31(self) -> None:
        input = random_input(140_000, 8, 2049)[..., 1:]
        output = poisoned(140_000, 2049)[:, 1:]
        moe_cute.sum_reduce(input, output, SCALE)
        assert_matches(output, input)

    @needs_gib(8)
    @pytest.mark.parametrize("permuted", [False, True])
    def test_rows_four_gib_apart(self, permuted: bool) -> None:
        """Farther than a fused kernel of vectors counts in 32 bits of bytes."""
        hidden, distance = 64, 2**31 + 8
        slots = random_input(2, hidden)
        apart = random_input(distance + hidden).as_strided((2, hidden), (distance, 1))
        apart.copy_(slots)
        output, weights = poisoned(1, hidden), torch.ones(1, 2, device="cuda")
        if permuted:
            index = torch.tensor([[1, 0]], device="cuda")
            moe_cute.sum_reduce(apart, output, SCALE, inv_permuted_idx=index, topk_weights=weights)
        else:
            moe_cute.sum_reduce(apart[None], output, SCALE, topk_weights=weights)
        assert_matches(output, slots[None])

    @needs_gib(16)
    @pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
    def test_permuted_rows_past_2_to_31(self, index_dtype: torch.dtype) -> None:
        rows, tokens, topk, hidden = 1_100_000, 20_000, 8, 2048
        input = random_input(rows, hidden)
        index = torch.randint(rows, (tokens, topk), device="cuda")
        output = poisoned(tokens, hidden)
        moe_cute.sum_reduce(input, output, SCALE, inv_permuted_idx=index.to(index_dtype))
        assert_matches(output, input[index])
