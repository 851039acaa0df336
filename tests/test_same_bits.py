"""The same bits whatever the variant, the batch, the threads or the device."""

import pytest
import torch

import moe_cute
from tests.acceptance import acceptors
from tests.calls import FULLEST, SCALE, Call, fused_call, plain_call, random_values
from tests.memory import INPUT_LAYOUTS, values_for
from tests.reference import FLOATS, assert_same_bits
from tests.variants import EPILOGUES

SHAPES = [  # tokens, topk, hidden
    (3, 8, 2048),  # every hidden size of the spec with one of its topk values: specialised and general variants
    (2, 4, 2880),
    (2, 10, 4096),
    (2, 1, 5120),
    (2, 6, 7168),
    (5, 5, 96),  # general ones only
    (4, 9, 43),  # single elements only
]


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_variant(device: torch.device, dtype: torch.dtype, epilogue: str, rng: torch.Generator) -> None:
    for tokens, topk, hidden in SHAPES:
        call = fused_call(FULLEST[epilogue], tokens, topk, hidden, dtype, rng)
        (input, output, _), tensors, _ = call.place(device)
        names = [variant.name for variant in acceptors(input, output, tensors)]
        assert len(names) >= len(EPILOGUES) - EPILOGUES.index(epilogue), "each epilogue has a general variant at least"
        chosen = call.run(device)
        for name in names:
            assert_same_bits(call.run(device, name), chosen, name)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_variant_on_special_values(device: torch.device, dtype: torch.dtype, rng: torch.Generator) -> None:
    """Random bits: NaN, infinities and subnormals among them."""
    for tokens, topk, hidden in SHAPES:
        raw = torch.randint(-(2**15), 2**15, (tokens, topk, hidden * dtype.itemsize // 2), generator=rng).to(
            torch.int16
        )
        call = Call(raw.view(dtype), tokens)
        (input, output, _), _, _ = call.place(device)
        expected = call.expected()
        for variant in acceptors(input, output):
            assert_same_bits(call.run(device, variant.name), expected, variant.name)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("topk", "hidden"), [(8, 2048), (5, 72), (3, 37)])
def test_every_batch(device: torch.device, dtype: torch.dtype, topk: int, hidden: int, rng: torch.Generator) -> None:
    """Row t of a batch is the row that a batch of any other size gives: what keeps logits from drifting with load."""
    input = random_values((700, topk, hidden), dtype, rng).to(device)
    whole = moe_cute.sum_reduce(input, None, SCALE)
    for tokens in (1, 2, 31, 32, 33, 256, 257, 512, 699):
        assert_same_bits(moe_cute.sum_reduce(input[:tokens], None, SCALE), whole[:tokens], tokens)
        assert_same_bits(moe_cute.sum_reduce(input[-tokens:], None, SCALE), whole[-tokens:], tokens)


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_every_number_of_threads(epilogue: str, rng: torch.Generator) -> None:
    calls = [
        fused_call(FULLEST[epilogue], tokens, 4, hidden, torch.bfloat16, rng)
        for tokens, hidden in ((2, 40_000), (300, 700))
    ]
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        for call in calls:
            call.check("cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_cpu_and_cuda(dtype: torch.dtype, epilogue: str, rng: torch.Generator) -> None:
    for tokens, topk, hidden in SHAPES:
        call = fused_call(FULLEST[epilogue], tokens, topk, hidden, dtype, rng)
        assert_same_bits(call.run("cuda"), call.run("cpu"), (tokens, topk, hidden))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
def test_cpu_and_cuda_strided(layout: str, rng: torch.Generator) -> None:
    call = Call(values_for(layout, plain_call(4, 6, 96, torch.bfloat16, rng).input), tokens=4)
    assert_same_bits(call.run("cuda", input_layout=layout), call.run("cpu", input_layout=layout))
