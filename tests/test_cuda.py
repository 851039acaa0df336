"""No surprises in a stream: graphs, side streams, devices, nothing allocated and nothing waited for."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import moe_cute
from tests.calls import FULLEST, SCALE, fused_call, plain_call, random_values
from tests.reference import assert_same_bits, sum_reduce
from tests.variants import EPILOGUES

pytestmark = pytest.mark.gpu

FIRST_CALL_IN_A_GRAPH = """
import torch, moe_cute
torch.set_default_device("cuda")
x, y = torch.ones(64, 8, 2048, dtype=torch.bfloat16), torch.zeros(64, 2048, dtype=torch.bfloat16)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph, capture_error_mode="global"):
    moe_cute.sum_reduce(x, y, 2.0)
assert (y == 0).all(), "it ran instead of being captured"
for value in (1.0, 3.0):
    x.fill_(value)
    graph.replay()
    assert (y == 16.0 * value).all()
print("captured")
"""


def test_captured_as_the_first_call_of_a_process() -> None:
    """No warm-up: nothing is loaded, allocated or asked of the device that a capture forbids."""
    root = Path(moe_cute.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", FIRST_CALL_IN_A_GRAPH], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert run.stdout.strip() == "captured", run.stderr


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_graph_replayed_with_new_data(epilogue: str, rng: torch.Generator) -> None:
    calls = [fused_call(FULLEST[epilogue], 33, 8, 2048, torch.bfloat16, rng) for _ in range(3)]
    (input, output, scale), tensors, _ = calls[0].place("cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        moe_cute.sum_reduce(input, output, scale, **tensors)
    for call in calls:
        input.copy_(call.input)
        for name, tensor in tensors.items():
            tensor.copy_(call.tensors[name])
        output.fill_(torch.nan)
        graph.replay()
        assert_same_bits(output[: call.live_tokens], call.expected())


@pytest.mark.parametrize("pdl", [True, False])
def test_runs_in_the_current_stream(pdl: bool, rng: torch.Generator) -> None:
    """Behind a producer that is still busy in that stream, while the default stream is idle."""
    values = random_values((64, 8, 2048), torch.bfloat16, rng)
    source, input = values.cuda(), torch.zeros(64, 8, 2048, dtype=torch.bfloat16, device="cuda")
    moe_cute.sum_reduce(input)  # the first call loads the kernel, for longer than the producer is busy
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        input.copy_(source)
        output = moe_cute.sum_reduce(input, None, SCALE, pdl=pdl)
    assert not stream.query(), "it waited for the stream"
    stream.synchronize()
    assert_same_bits(output, sum_reduce(values, SCALE))


def test_allocates_and_synchronises_nothing() -> None:
    input = torch.ones(64, 8, 2048, dtype=torch.bfloat16, device="cuda")
    output = torch.empty(64, 2048, dtype=torch.bfloat16, device="cuda")
    counts = lambda: torch.cuda.memory_stats()["allocation.all.allocated"]  # noqa: E731
    before = counts()
    torch.cuda.set_sync_debug_mode("error")
    try:
        moe_cute.sum_reduce(input, output)
        assert counts() == before
        made = moe_cute.sum_reduce(input)
        assert counts() == before + 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same_bits(made, output)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_gpu_without_work_stays_asleep() -> None:
    """The current one, where all tensors are on another: a context takes half a gigabyte of its memory."""
    code = """
import torch, moe_cute
x = torch.ones(64, 8, 2048, dtype=torch.bfloat16, device="cuda:1").requires_grad_()
moe_cute.sum_reduce(x, topk_weights=torch.ones(64, 8, device="cuda:1")).sum().backward()
moe_cute.sum_reduce(x.detach(), torch.empty(64, 2048, dtype=torch.bfloat16, device="cuda:1"))
torch.cuda.synchronize(1)
assert torch._C._cuda_hasPrimaryContext(1)
assert not torch._C._cuda_hasPrimaryContext(0)
assert torch.cuda.current_device() == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_device_than_the_current_one(rng: torch.Generator) -> None:
    call = plain_call(33, 8, 2048, torch.bfloat16, rng)
    torch.cuda.set_device(0)
    call.check("cuda:1")
    with torch.cuda.stream(torch.cuda.Stream(device=1)):
        call.check("cuda:1")
    assert torch.cuda.current_device() == 0
    input, output = call.input.to("cuda:1"), torch.zeros(33, 2048, dtype=torch.bfloat16, device="cuda:0")
    with pytest.raises(ValueError, match=r"output: was on cuda:0; allowed: the input's device, cuda:1"):
        moe_cute.sum_reduce(input, output)


@pytest.mark.parametrize("tokens", [1, 16, 257, 2048])
def test_parameters_survive_the_call(tokens: int, rng: torch.Generator) -> None:
    """Inputs freed right after an asynchronous call: the allocator hands out their memory in stream order."""
    call = plain_call(tokens, 8, 2048, torch.bfloat16, rng)
    output = moe_cute.sum_reduce(call.input.cuda(), None, SCALE)
    torch.empty(tokens, 8, 2048, dtype=torch.bfloat16, device="cuda").fill_(torch.nan)
    assert_same_bits(output, call.expected())
