"""Programmatic dependent launch: correct behind producers of every kind, and before consumers of every kind.

The producer here may trigger at its very start, spins, and only then rewrites the input with a value of its own for
each iteration. A sum_reduce that read before `griddepcontrol.wait`, or a stale cache line, would sum the last
iteration's.
"""

# A Triton kernel's parameters have no Python types.
# mypy: disable-error-code="no-untyped-def"

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.calls import Fusion, fused_call
from tests.reference import differing

pytestmark = pytest.mark.gpu

triton = pytest.importorskip("triton", reason="the early producer is a Triton kernel")
import triton.language as tl  # noqa: E402

if torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0):
    pytest.skip("programmatic dependent launch needs sm_90", allow_module_level=True)

BLOCK = 1024


@triton.jit
def _producer(target, step, elements, spins, TRIGGERS: tl.constexpr, BLOCK: tl.constexpr):
    """Lets its successor start at once, if it does so at all, spins, then sets every element to the step's value."""
    if TRIGGERS:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()  # the consumer of the last iteration may still read
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(step)
    for _ in range(spins):
        value = tl.where(value > 1e30, value * 0.5, value)  # a chain that the compiler cannot shorten
        tl.debug_barrier()
    tl.store(target + index, value.to(target.dtype.element_ty), mask=index < elements)


@triton.jit
def _next_step(step):
    tl.extra.cuda.gdc_wait()
    tl.store(step, (tl.load(step) + 1.0) % 61.0)
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _early_consumer(output, step, mismatches, scale, elements, BLOCK: tl.constexpr):
    """Starts as early as it may, waits, and counts what is not topk x step."""
    tl.extra.cuda.gdc_launch_dependents()
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.extra.cuda.gdc_wait()
    actual = tl.load(output + index, mask=index < elements, other=0.0).to(tl.float32)
    expected = (tl.load(step) * scale).to(output.dtype.element_ty).to(tl.float32)
    wrong = tl.sum(((actual != expected) & (index < elements)).to(tl.int32))
    tl.atomic_add(mismatches, wrong)


@triton.jit
def _hasty_sum(input, output, elements, TOPK: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """What must not be done: it reads first and waits then."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < elements
    first = input + index // HIDDEN * TOPK * HIDDEN + index % HIDDEN
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for slot in tl.static_range(TOPK):
        total += tl.load(first + slot * HIDDEN, mask=inside, other=0.0).to(tl.float32)
    tl.extra.cuda.gdc_wait()
    tl.store(output + index, total.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _early_copy_kernel(target, source, elements, spins, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source + index, mask=index < elements)
    for _ in range(spins):
        tl.debug_barrier()
    tl.store(target + index, value, mask=index < elements)


def _early_copy(target: Tensor, source: Tensor) -> None:
    grid = (triton.cdiv(target.numel(), BLOCK),)
    _early_copy_kernel[grid](target, source, target.numel(), 300, BLOCK=BLOCK, launch_pdl=True)


class Chain:
    """Producer, sum_reduce, consumer, over the same buffers again and again."""

    def __init__(
        self, tokens: int, topk: int, hidden: int, dtype: torch.dtype, spins: int, triggers: bool = True
    ) -> None:
        self.input = torch.zeros(tokens, topk, hidden, dtype=dtype, device="cuda")
        self.output = torch.zeros(tokens, hidden, dtype=dtype, device="cuda")
        self.step = torch.zeros((), device="cuda")
        self.mismatches = torch.zeros((), dtype=torch.int32, device="cuda")
        self.spins = spins
        self.triggers = triggers

    def produce(self) -> None:
        _next_step[(1,)](self.step, launch_pdl=True)
        elements = self.input.numel()
        grid = (triton.cdiv(elements, BLOCK),)
        _producer[grid](
            self.input, self.step, elements, self.spins, TRIGGERS=self.triggers, BLOCK=BLOCK, launch_pdl=self.triggers
        )

    def check(self, waits: bool) -> None:
        topk, elements = self.input.shape[1], self.output.numel()
        if waits:
            grid = (triton.cdiv(elements, BLOCK),)
            _early_consumer[grid](self.output, self.step, self.mismatches, topk, elements, BLOCK=BLOCK, launch_pdl=True)
        else:
            expected = (self.step * topk).to(self.output.dtype)
            self.mismatches += (self.output != expected).sum()

    def run(
        self, call: Callable[[Tensor, Tensor], object], iterations: int, waits: bool = True, in_graph: bool = False
    ) -> int:
        """Number of wrong elements over all iterations."""

        def iteration() -> None:
            self.produce()
            call(self.input, self.output)
            self.check(waits)

        iteration()  # compiles
        torch.cuda.synchronize()
        if not in_graph:
            for _ in range(iterations):
                iteration()
            return int(self.mismatches)
        graph, per_graph = torch.cuda.CUDAGraph(), 20
        with torch.cuda.graph(graph):
            for _ in range(per_graph):
                iteration()
        for _ in range(iterations // per_graph):
            graph.replay()
        return int(self.mismatches)


def reduce_into(input: Tensor, output: Tensor) -> None:
    moe_cute.sum_reduce(input, output)


SHAPES = [  # tokens, topk, hidden: from one block to many waves
    (1, 8, 2048),
    (4, 8, 7168),
    (16, 8, 2048),
    (64, 8, 2048),
    (64, 10, 4096),
    (256, 6, 2048),
    (512, 8, 7168),
]


@pytest.mark.parametrize("in_graph", [False, True], ids=["loop", "graph"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_behind_a_producer_that_lets_go_early(shape: tuple[int, int, int], in_graph: bool) -> None:
    assert Chain(*shape, torch.bfloat16, spins=300).run(reduce_into, 2000, in_graph=in_graph) == 0


@pytest.mark.parametrize("in_graph", [False, True], ids=["loop", "graph"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_behind_an_ordinary_producer(shape: tuple[int, int, int], in_graph: bool) -> None:
    chain = Chain(*shape, torch.bfloat16, spins=300, triggers=False)
    assert chain.run(reduce_into, 2000, in_graph=in_graph) == 0


class Edge(ctypes.Structure):
    """cudaGraphEdgeData."""

    _fields_ = (
        ("from_port", ctypes.c_ubyte),
        ("to_port", ctypes.c_ubyte),
        ("type", ctypes.c_ubyte),
        ("_", ctypes.c_ubyte * 5),
    )


ORDINARY = (0, 0)
AT_LAUNCH_COMPLETION = (2, 1)  # cudaGraphKernelNodePortLaunchCompletion, cudaGraphDependencyTypeProgrammatic


def last_edge_of(body: Callable[[], object]) -> tuple[int, int]:
    """Port and type of the only edge into the last node of a graph of two."""
    body()  # compiles and loads
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        body()
    major = str(torch.version.cuda).split(".")[0]
    runtime = ctypes.CDLL(f"libcudart.so.{major}")
    get_edges = runtime.cudaGraphGetEdges if int(major) >= 13 else runtime.cudaGraphGetEdges_v2
    count, edges = ctypes.c_size_t(2), (Edge * 2)()
    nodes = [(ctypes.c_void_p * 2)() for _ in range(2)]
    assert get_edges(ctypes.c_void_p(graph.raw_cuda_graph()), *nodes, edges, ctypes.byref(count)) == 0
    assert count.value == 1
    return edges[0].from_port, edges[0].type


@pytest.mark.skipif(not hasattr(torch.cuda.CUDAGraph, "raw_cuda_graph"), reason="this torch shows no graph's edges")
def test_a_capture_overlaps_with_kernels_alone() -> None:
    input = torch.ones(16, 8, 2048, dtype=torch.bfloat16, device="cuda")
    output, other = torch.empty_like(input[:, 0]), torch.ones_like(input)
    call = functools.partial(moe_cute.sum_reduce, input, output)

    assert last_edge_of(lambda: (torch.neg(other, out=input), call())) == AT_LAUNCH_COMPLETION
    assert last_edge_of(lambda: (call(), call())) == AT_LAUNCH_COMPLETION
    assert last_edge_of(lambda: (torch.neg(other, out=input), call(pdl=False))) == ORDINARY
    assert last_edge_of(lambda: (input.copy_(other), call())) == ORDINARY  # a copy is no kernel


def test_the_chain_would_catch_a_missing_wait() -> None:
    """A consumer that reads without waiting does see the last iteration's values: else these tests prove nothing."""

    def reduce_hastily(input: Tensor, output: Tensor) -> None:
        _, topk, hidden = input.shape
        grid = (triton.cdiv(output.numel(), BLOCK),)
        _hasty_sum[grid](input, output, output.numel(), TOPK=topk, HIDDEN=hidden, BLOCK=BLOCK, launch_pdl=True)

    assert Chain(16, 8, 2048, torch.bfloat16, spins=300).run(reduce_hastily, 200, in_graph=True) > 0


def test_every_launch_that_explain_reports() -> None:
    """One chain for each (variant, threads, prefetch_kib) that is chosen over the token counts of an engine."""
    launches: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for topk, hidden in ((8, 2048), (6, 2048), (10, 4096), (2, 4096), (4, 2880), (8, 7168), (5, 1000), (3, 333)):
            for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 256):
                chosen = moe_cute.explain((tokens, topk, hidden), dtype=dtype, device="cuda")
                launches.setdefault(
                    (chosen.variant, chosen.threads, chosen.prefetch_kib), (tokens, topk, hidden, dtype)
                )
    assert len(launches) > 10
    for launch, (tokens, topk, hidden, dtype) in launches.items():
        assert Chain(tokens, topk, hidden, dtype, spins=100).run(reduce_into, 200, in_graph=True) == 0, launch


@pytest.mark.parametrize("waits", [True, False], ids=["waiting-consumer", "ordinary-consumer"])
@pytest.mark.parametrize("pdl", [True, False], ids=["pdl", "no-pdl"])
def test_with_and_without(pdl: bool, waits: bool) -> None:
    def call(input: Tensor, output: Tensor) -> None:
        moe_cute.sum_reduce(input, output, pdl=pdl)

    for in_graph in (False, True):
        assert Chain(64, 8, 2048, torch.bfloat16, spins=300).run(call, 500, waits, in_graph) == 0


def test_two_in_a_row() -> None:
    """The second reads what the first wrote, and lets the next producer start while the first may still read."""
    middle = torch.zeros(64, 1, 2048, dtype=torch.bfloat16, device="cuda")

    def twice(input: Tensor, output: Tensor) -> None:
        moe_cute.sum_reduce(input, middle[:, 0])
        moe_cute.sum_reduce(middle, output)

    assert Chain(64, 8, 2048, torch.bfloat16, spins=300).run(twice, 2000, in_graph=True) == 0


FUSIONS = {
    "weighted": Fusion(weights="float32", shared="own"),
    "ids": Fusion(ids="map"),
    "rows32": Fusion(weights="float32", rows=torch.int32),
    "rows64": Fusion(weights="input", rows=torch.int64, shared="own"),
    "all": Fusion(weights="float32", ids="map", rows=torch.int32, shared="own", live_tokens=3),
}


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
@pytest.mark.parametrize("tokens", [4, 33, 256])  # those for which rows are guessed, by indices that are still old
@pytest.mark.parametrize("old", ["zeros", "another call's"])
def test_fused_operands_behind_a_producer(old: str, tokens: int, fusion: Fusion, rng: torch.Generator) -> None:
    """Ids, weights, rows, the shared row and the count of live tokens are read after the wait too."""
    right = fused_call(fusion, tokens, 8, 2048, torch.bfloat16, rng)
    (input, output, scale), tensors, _ = right.place("cuda")
    operands = [input, *tensors.values()]
    sources = [operand.clone() for operand in operands]
    # Harmless to read, and wrong: zeros skip nothing, point at row 0, and mean no live token.
    decoys = [torch.zeros_like(operand) for operand in operands]
    if old != "zeros":
        # The same but for what one slot in two holds: in most warps, one guess of many is wrong.
        for decoy, operand in zip(decoys[1:], operands[1:], strict=True):
            other = operand.flatten().roll(1).view_as(operand) if operand.numel() > 1 else operand - 1
            keep = torch.rand(operand.shape, device="cuda") < 0.5
            decoy.copy_(torch.where(keep, operand, other))
    expected = right.expected().cuda()
    mismatches = torch.zeros((), dtype=torch.int64, device="cuda")

    def iteration() -> None:
        for operand, decoy in zip(operands, decoys, strict=True):
            operand.copy_(decoy)
        output.fill_(torch.nan)
        for operand, source in zip(operands, sources, strict=True):
            _early_copy(operand, source)
        moe_cute.sum_reduce(input, output, scale, **tensors)
        mismatches.add_(differing(output[: right.live_tokens], expected).sum())

    iteration()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        iteration()
    for _ in range(1000):
        graph.replay()
    assert mismatches.item() == 0
