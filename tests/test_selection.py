"""The choice, against an oracle that knows the manifest and the rules of acceptance, and asks the library nothing."""

import functools
import platform
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch

import moe_cute
from moe_cute import _explanation
from moe_cute._extension import _C
from tests.acceptance import accepts, needed_epilogue
from tests.calls import FULLEST, Fusion, fused_call, plain_call
from tests.reference import FLOATS, assert_same_bits
from tests.variants import (
    EPILOGUES,
    INSTRUCTION_SETS,
    VARIANTS,
    Variant,
    built_names,
    host_has,
    lacks_widths,
    listed_topks,
    looped_topks,
)

H200 = (90, 132, 60)
has_cuda_part = any(variant.name in built_names() for variant in VARIANTS if variant.backend == "cuda")
BACKENDS = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")),
]


@dataclass(frozen=True)
class Described:
    """What the choice sees of a tensor; the memory need not exist, nor the device."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    address: int

    def stride(self, dim: int | None = None) -> Any:
        return self.strides if dim is None else self.strides[dim]

    def data_ptr(self) -> int:
        return self.address

    def element_size(self) -> int:
        return self.dtype.itemsize

    def as_tuple(self) -> tuple[Any, ...]:
        return self.shape, self.strides, str(self.dtype).removeprefix("torch."), self.device.type, 0, self.address


Tensors = dict[str, Described]
OPTIONAL = ("topk_weights", "topk_ids", "expert_map", "inv_permuted_idx", "shared_output", "num_tokens")


@dataclass(frozen=True)
class Question:
    input: Described
    output: Described
    tensors: Tensors

    def ask(self) -> moe_cute.Explanation:
        descriptions: list[Any] = [self.input, self.output, *(self.tensors.get(name) for name in OPTIONAL)]
        found = _C.explain(*(each and each.as_tuple() for each in descriptions), 1.0, *H200, "trigger")
        return moe_cute.Explanation(*found[:4], tuple(found[4]))


class Draw:
    """Random calls, of every kind that the rules tell apart."""

    def __init__(self, backend: str, rng: torch.Generator) -> None:
        self.device, self.rng, self.tensors_made = torch.device(backend), rng, 0

    def one_of(self, *options: Any) -> Any:
        return options[int(torch.randint(len(options), (), generator=self.rng))]

    def tensor(
        self, shape: tuple[int, ...], dtype: torch.dtype, past: int = 0, pad: int = 0, spread: int = 1
    ) -> Described:
        """`past` elements past a round address, rows `pad` elements apart, and elements `spread`."""
        strides, distance = [], spread
        for size in reversed(shape):
            strides.append(distance)
            distance = distance * max(size, 1) + (pad if distance == spread else 0)
        self.tensors_made += 1
        address = (self.tensors_made << 44) + past * dtype.itemsize
        return Described(shape, tuple(reversed(strides)), dtype, self.device, address)

    def placement(self) -> dict[str, int]:
        return {
            "past": self.one_of(0, 0, 0, 1, 2, 4, 8),
            "pad": self.one_of(0, 0, 0, 1, 2, 4, 8, 16),
            "spread": self.one_of(1, 1, 1, 1, 1, 1, 2),
        }

    def question(self) -> Question:
        dtype = self.one_of(*FLOATS)
        # Multiples of 8, so that their elements in a single row suit every width.
        tokens, topk = self.one_of(8, 16, 64, 256, 4096, 65536), self.one_of(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 33)
        hidden = self.one_of(2048, 2048, 2880, 4096, 5120, 7168, 64, 1000, 36, 10, 7, 1, 16, 2052)
        out_dtype = torch.float32 if dtype.itemsize == 2 and self.one_of(0, 0, 0, 1) else dtype
        output = self.tensor((tokens, hidden), out_dtype, **self.placement())
        tensors: Tensors = {}
        if self.one_of(0, 0, 1):
            tensors["topk_weights"] = self.tensor((tokens, topk), torch.float32)
        if self.one_of(0, 0, 0, 1):
            tensors["topk_ids"] = self.tensor((tokens, topk), torch.int64)
        if self.one_of(0, 0, 0, 1):
            tensors["shared_output"] = self.tensor((tokens, hidden), out_dtype, **self.placement())
        if self.one_of(0, 0, 0, 0, 1):
            tensors["num_tokens"] = self.tensor((1,), torch.int32)
        if self.one_of(0, 0, 0, 1):
            tensors["inv_permuted_idx"] = self.tensor((tokens, topk), torch.int32)
            return Question(self.tensor((999, hidden), dtype, **self.placement()), output, tensors)
        return Question(self.tensor((tokens, topk, hidden), dtype, **self.placement()), output, tensors)


def single_row(question: Question) -> Question:
    """The same number of elements and the same operands in one aligned row, where every width is accepted."""
    tokens, hidden = question.output.shape
    draw, operands = Draw(question.input.device.type, torch.Generator()), question.tensors
    topk = operands.get("inv_permuted_idx", question.input).shape[1]
    tensors = {name: draw.tensor((1, topk), tensor.dtype) for name, tensor in operands.items()}
    if "num_tokens" in operands:
        tensors["num_tokens"] = draw.tensor((1,), torch.int32)
    if "shared_output" in operands:
        tensors["shared_output"] = draw.tensor((1, tokens * hidden), question.output.dtype)
    shape = (999, tokens * hidden) if "inv_permuted_idx" in operands else (1, topk, tokens * hidden)
    input, output = draw.tensor(shape, question.input.dtype), draw.tensor((1, tokens * hidden), question.output.dtype)
    return Question(input, output, tensors)


def named(name: str | None) -> Variant:
    (variant,) = (variant for variant in VARIANTS if variant.name == name)
    return variant


def answer(question: Question, width: int, unaligned_width: int) -> tuple[str, list[str]]:
    """The first that accepts and those refused before it, where this width is the best for that many elements.

    In order, of those not made for other sizes: the nearest epilogue, the nearest width, the wider ones first, then the
    manifest's order. Of unaligned ones, those of `unaligned_width` come first.
    """
    input, output, tensors = question.input, question.output, question.tensors
    topk, hidden = tensors.get("inv_permuted_idx", input).shape[1], input.shape[-1]
    needed = EPILOGUES.index(needed_epilogue(input, output, tensors))

    def distance(variant: Variant) -> tuple[int, bool, float, bool]:
        steps = 0.0
        if variant.backend == "cuda":
            unaligned = 0.5 if unaligned_width > 1 else -0.5  # before single elements, or after
            if unaligned_width == 8 and variant.epilogue != "plain":
                unaligned = 1.5  # before pairs
            steps = (unaligned if variant.unaligned else log2(variant.vector_width)) - log2(width)
        is_second = variant.unaligned and variant.vector_width != unaligned_width
        return abs(EPILOGUES.index(variant.epilogue) - needed), steps < 0, abs(steps), is_second

    candidates = [v for v in VARIANTS if v.backend == input.device.type and v.dtype is input.dtype]
    order = sorted((v for v in candidates if v.topk in (None, topk) and v.hidden in (None, hidden)), key=distance)
    first = next(variant for variant in order if accepts(variant, input, output, tensors))
    return first.name, [variant.name for variant in order[: order.index(first)]]


def given(question: Question) -> tuple[str | None, list[str]]:
    explanation = question.ask()
    assert all(reason for _, reason in explanation.refused)
    return explanation.variant, [name for name, _ in explanation.refused]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_that_accepts(backend: str, rng: torch.Generator) -> None:
    draw = Draw(backend, rng)
    chosen = set()
    for _ in range(400):
        question = draw.question()
        # Which width is best depends on sizes alone, so a single row tells it, or leaves two if an epilogue lacks both.
        twin = single_row(question)
        best_widths = [widths for widths in product((1, 2, 4, 8), (1, 2, 4, 8)) if answer(twin, *widths) == given(twin)]
        assert best_widths
        assert given(question) in [answer(question, *widths) for widths in best_widths], question
        chosen.add(given(question)[0])
    assert len(chosen) > (50 if backend == "cuda" else 20), "the calls drawn tell too little apart"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_call_finds_a_variant(backend: str, rng: torch.Generator) -> None:
    """The general kernel of one element takes anything."""
    draw = Draw(backend, rng)
    for _ in range(50):
        question = draw.question()
        odd = replace(question.input, strides=tuple(7 * stride + 3 for stride in question.input.strides))
        assert Question(odd, question.output, question.tensors).ask().variant is not None


def test_the_best_instruction_set_of_this_processor(rng: torch.Generator) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the instruction sets are x86-64's")
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    has = {
        "avx2": {"avx2", "fma", "f16c"} <= set(flags),
        "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags),
    }
    assert {name: host_has(name) for name in has} == has
    best = next(name for name in reversed(INSTRUCTION_SETS) if has.get(name, True))
    assert named(moe_cute.explain((4, 8, 2048)).variant).instruction_set == best


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
def test_no_narrow_loads_for_want_of_a_width() -> None:
    """A call that fits vectors gets them, also where there is no kernel of the width that the ladder likes best."""
    for dtype in FLOATS:
        for tokens in (1, 2, 3, 7, 16, 33, 64, 100, 128, 256, 512, 1024, 8192):
            for topk in (2, 4, 5, 8, 10):
                found = moe_cute.explain(
                    (tokens, topk, 2048), dtype=dtype, topk_ids=True, device="cuda", architecture=90
                )
                assert named(found.variant).vector_width * dtype.itemsize >= 4, (dtype, tokens, topk)


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
def test_many_slots_get_narrow_vectors() -> None:
    """Of the kernels for any topk, those of 8-byte vectors have more than eight rows on their way."""
    topk = looped_topks(12, 33)[0]
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if lacks_widths(dtype):
            continue
        for architecture in (80, 90):
            for tokens in (1, 7, 64, 3000):
                found = moe_cute.explain(
                    (tokens, topk, 2048),
                    dtype=dtype,
                    device="cuda",
                    architecture=architecture,
                    multiprocessors=132,
                )
                assert named(found.variant).vector_width * dtype.itemsize == 8
                assert found.threads == (128 if tokens * 2048 * dtype.itemsize // 8 < 132 * 256 else 256)


# Launch shapes


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("architecture", [80, 90])
def test_blocks_of_single_elements_read_enough(architecture: int) -> None:
    """A ladder's blocks are those of its vectors: where a call fits none of these, many blocks would be too small."""
    for tokens, topk in product((1, 64, 700, 3000), (2, 8, 12)):
        odd, even = (
            moe_cute.explain(
                (tokens, topk, hidden),
                dtype=torch.float64,
                device="cuda",
                architecture=architecture,
                multiprocessors=132,
            )
            for hidden in (4095, 4096)
        )
        assert (named(odd.variant).vector_width, named(odd.variant).unaligned) == (1, False)
        assert odd.threads >= even.threads
        if named(even.variant).vector_width == 1:  # measured so
            continue
        is_few = tokens * 4095 <= odd.threads * 4 * 132
        assert is_few or odd.threads * topk * 8 >= 4096 or odd.threads == 512
        assert tokens > 1 or odd.threads == even.threads


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("epilogue", ["plain", "weighted", "permuted"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_unaligned_vectors(dtype: torch.dtype, epilogue: str, architecture: int) -> None:
    """Words shifted into place where threads are many, wider ones where topk is looped over; small blocks while few."""
    if lacks_widths(dtype) or 3 in listed_topks():
        pytest.skip("the spec leaves out some widths, or three slots are not looped over")
    for tokens, topk in product((1, 20, 64, 700, 3000), (2, 3, 8)):
        if dtype is torch.float64 and (topk != 3 or architecture == 80):
            continue  # single elements
        shape = (tokens * topk, 4095) if epilogue == "permuted" else (tokens, topk, 4095)
        fused: dict[str, Any] = {"plain": {}, "weighted": {"topk_weights": True}}.get(
            epilogue, {"inv_permuted_idx": (tokens, topk)}
        )

        def asked(shape: tuple[int, ...], fused: dict[str, Any] = fused) -> moe_cute.Explanation:
            return moe_cute.explain(
                shape, dtype=dtype, device="cuda", architecture=architecture, multiprocessors=132, **fused
            )

        found = asked(shape)
        variant = named(found.variant)
        if dtype is torch.float64 and named(asked((*shape[:-1], 4096)).variant).vector_width == 1:
            assert (variant.unaligned, variant.vector_width) == (False, 1)  # as measured at that size
            continue
        loops, is_permuted = topk == 3, epilogue == "permuted"
        are_many = tokens * 4095 // 2 >= 132 * 1024
        are_wide = dtype.itemsize == 2 and (are_many or (loops and is_permuted))
        wide = 8 if loops and not is_permuted else 4
        assert (variant.unaligned, variant.vector_width) == (True, wide if are_wide else 2)
        has_many_registers = are_wide and (loops or (topk == 8 and epilogue != "plain"))
        sizes = [64, 128] if has_many_registers else [64, 128, 256]
        enough = [threads for threads in sizes if tokens * 4095 // variant.vector_width <= 4 * 132 * threads]
        assert found.threads == (enough or sizes)[0 if enough else -1]
        assert found.prefetch_kib == (24 if architecture >= 90 else 0)


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_fused_calls_of_other_topks(dtype: torch.dtype, permuted: bool) -> None:
    """Ladders were measured on eight slots: others follow them by the size of the output, or have their own rules."""
    if lacks_widths(dtype) or not {1, 2, 8} <= listed_topks():
        pytest.skip("the spec leaves out some widths, or kernels of one, two or eight slots")

    def asked(tokens: int, topk: int) -> moe_cute.Explanation:
        shape = (tokens * topk, 2048) if permuted else (tokens, topk, 2048)
        slots: dict[str, Any] = {"inv_permuted_idx": (tokens, topk)} if permuted else {"topk_weights": True}
        return moe_cute.explain(
            shape, dtype=dtype, device="cuda", architecture=90, multiprocessors=132, l2_mib=60, **slots
        )

    def launch(found: moe_cute.Explanation) -> tuple[int, int, int]:
        return named(found.variant).vector_width * dtype.itemsize, found.threads, found.prefetch_kib

    for tokens in (1, 16, 100, 300, 1000, 5000):
        threads = tokens * 2048 * dtype.itemsize // 16
        eight = launch(asked(tokens, 8))
        assert {launch(asked(tokens, topk)) for topk in {4, 8, 9} & listed_topks()} == {eight}
        for topk in (*looped_topks(3, 9), *looped_topks(12, 33)[:1]):
            assert launch(asked(tokens, topk)) == (16 if threads > 132 * 384 else 8, 128, 24)
        for topk in (1, 2):
            if threads >= 132 * 128:
                assert launch(asked(tokens, topk)) == (16 if threads > 132 * 1024 else 8, 256, 24)
            elif dtype.itemsize == 2:
                assert launch(asked(tokens, topk)) == eight


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("operands", [{}, {"topk_weights": True}, {"num_tokens": True}], ids=lambda each: "".join(each))
@pytest.mark.parametrize("topk", [1, 5, 8, 12])
def test_no_rule_prefetches_behind_an_ordinary_kernel(topk: int, operands: dict[str, Any]) -> None:
    for tokens, hidden, architecture in product((1, 64, 3000), (2047, 2048), (90, 100)):
        behind_trigger, behind_ordinary = (
            moe_cute.explain(
                (tokens, topk, hidden), device="cuda", architecture=architecture, behind=behind, **operands
            )
            for behind in ("trigger", "ordinary")
        )
        assert behind_trigger.prefetch_kib or behind_trigger.measured or topk == 12
        assert not behind_ordinary.prefetch_kib or behind_ordinary.measured


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
def test_fused_kernels_have_no_larger_blocks() -> None:
    for tokens in (1, 16, 256, 4096):
        for fused in ({"topk_weights": True}, {"topk_ids": True}, {"num_tokens": True}):
            found = moe_cute.explain((tokens, 8, 2048), device="cuda", architecture=90, **fused)
            assert found.threads <= 256


def tuning_files() -> list[Path]:
    return sorted((Path(__file__).parent.parent / "specs" / "tuning").glob("*.yaml"))


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("path", tuning_files(), ids=lambda path: path.stem)
def test_a_gpu_follows_the_ladder_of_the_nearest_cache(path: Path) -> None:
    """GPUs of one architecture: each its own ladder where there is one, and any other the nearest."""
    yaml = pytest.importorskip("yaml", reason="the tuning files are YAML")
    tuning = yaml.safe_load(path.read_text())
    caches = sorted({ladder["l2_mib"] for ladder in tuning["ladders"]})

    def found(l2_mib: int) -> list[moe_cute.Explanation]:
        return [
            moe_cute.explain(
                (tokens, 8, 4096), device="cuda", architecture=tuning["architecture"], l2_mib=l2_mib, behind=behind
            )
            for tokens, behind in product((1, 4, 16, 64, 96, 128, 256, 1024, 8192), ("trigger", "ordinary"))
        ]

    assert found(1) == found(caches[0])
    assert found(4096) == found(caches[-1])
    for smaller, larger in pairwise(caches):
        assert found(smaller) != found(larger)
        middle = (smaller + larger) // 2
        assert found(middle - 1) == found(smaller)
        assert found(middle + 1) == found(larger)


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("path", tuning_files(), ids=lambda path: path.stem)
def test_measured_launches(path: Path) -> None:
    """Each step of each ladder, at its last element and, where there is another step, just past it."""
    yaml = pytest.importorskip("yaml", reason="the tuning files are YAML")
    tuning = yaml.safe_load(path.read_text())
    for ladder in tuning["ladders"]:
        if ladder["epilogue"] != "plain" or ladder["topk"] == "any":
            continue
        steps = ladder["steps"]
        for step, after in zip(steps, [*steps[1:], steps[-1]], strict=True):
            last = step["outputs"]
            below = last // 8 if last != "any" else 2**30
            for row, expected in [(below, step), (below + 1, after)]:  # in units that every width divides
                shape = (1, ladder["topk"], 8 * row)
                ask = functools.partial(
                    moe_cute.explain,
                    shape,
                    dtype=getattr(torch, ladder["dtype"]),
                    device="cuda",
                    architecture=tuning["architecture"],
                    l2_mib=ladder["l2_mib"],
                )
                found = ask(behind=ladder["behind"])
                assert found.measured
                launch = {
                    "vector_width": named(found.variant).vector_width,
                    "threads": found.threads,
                    "prefetch_kib": found.prefetch_kib,
                }
                assert launch == {key: expected[key] for key in launch}, (ladder["dtype"], shape)
                if ladder["behind"] == "ordinary":  # without overlap there is nothing to prefetch behind
                    assert ask(pdl=False) == replace(found, prefetch_kib=0)


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize(
    ("shape", "operands", "measured"),
    [
        ((64, 8, 4096), {}, True),
        ((64, 8, 4096), {"topk_weights": True}, True),
        ((64, looped_topks(12, 33)[0], 4096), {}, False),
        ((64, looped_topks(3, 33)[0], 4096), {"topk_weights": True}, False),
        ((64, 8, 4095), {}, False),
        ((64, 8, 4096), {"num_tokens": True}, False),
        ((4096, 8, 4098), {}, False),  # by pairs, where the ladder says vectors of 16 bytes
    ],
)
def test_only_launches_of_a_ladder_are_called_measured(
    shape: tuple[int, ...], operands: dict[str, Any], measured: bool
) -> None:
    if not any(path.stem == "sm90" for path in tuning_files()):
        pytest.skip("no ladders for sm_90")
    found = moe_cute.explain(
        shape, dtype=torch.bfloat16, device="cuda", architecture=90, multiprocessors=132, l2_mib=60, **operands
    )
    assert found.measured is measured


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_routed_calls_follow_the_ladder_of_permuted_ones(dtype: torch.dtype) -> None:
    """The nearest of those measured. Routed kernels have no narrower vectors than of 8 bytes."""
    for tokens in (512, 1024, 2048, 8192):
        ask = functools.partial(moe_cute.explain, dtype=dtype, device="cuda", architecture=90)
        permuted = ask((8 * tokens, 4096), inv_permuted_idx=(tokens, 8))
        routed = ask((tokens, 8, 4096), topk_ids=True)
        width = named(permuted.variant).vector_width
        assert named(routed.variant).vector_width == width
        assert (routed.threads, routed.prefetch_kib) == (permuted.threads, permuted.prefetch_kib)


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize(("rows", "epilogue"), [(2**31 - 1, "permuted"), (2**31, "routed")])
def test_rows_beyond_32_bits(rows: int, epilogue: str) -> None:
    found = moe_cute.explain((rows, 8), inv_permuted_idx=(4, 2), device="cuda", architecture=90)
    assert named(found.variant).epilogue == epilogue


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("index", [None, torch.int32])
def test_rows_four_gib_apart(index: torch.dtype | None, rng: torch.Generator) -> None:
    draw = Draw("cuda", rng)
    slots = {"topk_weights": draw.tensor((2, 8), torch.float32)}
    if index is not None:
        slots["inv_permuted_idx"] = draw.tensor((2, 8), index)
    shape = (2, 8, 2048) if index is None else (16, 2048)
    for pad, narrow in [(2**31 - 2048 - 8, False), (2**31 - 2048, True)]:
        question = Question(draw.tensor(shape, torch.bfloat16, pad=pad), draw.tensor((2, 2048), torch.bfloat16), slots)
        found = question.ask()
        assert (named(found.variant).vector_width == 1) is narrow
        assert any("bytes apart, and it counts them in 32 bits" in reason for _, reason in found.refused) is narrow
        assert accepts(named(found.variant), question.input, question.output, slots)
        assert not any(accepts(named(name), question.input, question.output, slots) for name, _ in found.refused)


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
def test_a_plain_launch_has_nothing_to_prefetch_behind() -> None:
    """With measured launches and without."""
    for dtype, architecture in product(FLOATS, (80, 90, 100)):
        shapes = [(tokens, 8, 4096) for tokens in (1, 16, 64, 256)]
        for pdl in (False, True):
            asked = [
                moe_cute.explain(shape, dtype=dtype, device="cuda", architecture=architecture, pdl=pdl)
                for shape in shapes
            ]
            assert any(found.prefetch_kib for found in asked) is (pdl and architecture >= 90)


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
@pytest.mark.parametrize("architecture", [80, 100, 120])
def test_launches_without_measurements(architecture: int) -> None:
    """More and narrower threads while tokens are few, whole 16-byte vectors when they are many."""
    for dtype in FLOATS:
        if lacks_widths(dtype):
            continue
        found = [
            moe_cute.explain(
                (tokens, 8, 4096), dtype=dtype, device="cuda", architecture=architecture, multiprocessors=108
            )
            for tokens in (1, 8, 64, 512, 4096)
        ]
        if any(each.measured for each in found):
            pytest.skip(f"sm_{architecture} has measurements")
        widths = [named(each.variant).vector_width * dtype.itemsize for each in found]
        assert widths == sorted(widths)
        assert (widths[0], widths[-1]) == (8, 16)
        assert {each.threads for each in found} <= {64, 128, 256}  # whatever the spec lists for ladders


# Remembering


def test_remembered_choices_do_not_leak(device: torch.device, rng: torch.Generator) -> None:
    """Calls of one shape that differ in alignment, strides, epilogue or what is added in place, in turns; and more
    shapes than are kept."""
    turns = [("contiguous", "contiguous"), ("offset_by_one", "contiguous"), ("sliced_rows_odd", "offset_by_one")]
    calls = [fused_call(FULLEST[epilogue], 3, 4, 64, torch.bfloat16, rng) for epilogue in EPILOGUES]
    # Of 65 elements, unaligned vectors would add one twice.
    calls += [fused_call(Fusion(shared=shared), 3, 4, 65, torch.bfloat16, rng) for shared in ("own", "output")]
    for _ in range(3):
        for input_layout, output_layout in turns:
            for call in calls:
                call.check(device, input_layout=input_layout, output_layout=output_layout)
    shapes = [plain_call(1 + n % 7, 1 + n % 5, 8 + n, torch.bfloat16, rng) for n in range(300)]
    for call in shapes + shapes[::-1]:
        assert_same_bits(moe_cute.sum_reduce(call.input.to(device), None, call.scale), call.expected())


# explain


def test_explain_a_tensor_and_its_shape(device: torch.device) -> None:
    for dtype in FLOATS:
        input = torch.zeros(33, 8, 2048, dtype=dtype, device=device)
        assert moe_cute.explain(input) == moe_cute.explain((33, 8, 2048), dtype=dtype, device=device)


def test_explain_the_optional_tensors(device: torch.device, rng: torch.Generator) -> None:
    for epilogue in EPILOGUES:
        (input, output, _), tensors, _ = fused_call(FULLEST[epilogue], 4, 3, 64, torch.bfloat16, rng).place(device)
        told = moe_cute.explain(input, output, **tensors)
        assert named(told.variant).epilogue == epilogue
        moe_cute.sum_reduce(input, output, **tensors, variant=told.variant)
        for name, reason in told.refused:
            with pytest.raises(ValueError, match=name):
                moe_cute.sum_reduce(input, output, **tensors, variant=name)
            assert reason
    described = moe_cute.explain((4, 3, 64), device=device, topk_weights=True, shared_output=True)
    assert named(described.variant).epilogue == "weighted"
    described = moe_cute.explain((4, 3, 64), device=device, out_dtype=torch.float32)
    assert named(described.variant).epilogue == "routed"


@pytest.mark.skipif(not has_cuda_part, reason="this build of moe_cute has no CUDA part")
def test_explain_prints_the_reasons() -> None:
    told = moe_cute.explain((4, 3, 65), dtype=torch.float32, device="cuda", architecture=90)
    first, *others = str(told).splitlines()
    assert first.startswith(str(told.variant))
    assert "heuristic" in first or "measured" in first
    assert [line.strip() for line in others] == [f"not {name}: {reason}" for name, reason in told.refused]
    assert any("hidden size 65 is no multiple of 4" in line for line in others)
    assert told.as_dict()["variant"] == told.variant


SLOTS = r"allowed: shape \[tokens, topk\]"
FLAG = "allowed: a torch.Tensor, True, False or None"
DENSE = torch.zeros(3, 2, 64)


@pytest.mark.filterwarnings("ignore:.*quantized")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"input": (3, 64)}, ValueError, r"input: was of shape \[3, 64\]; allowed: "),
        ({"input": (-3, 2, 64)}, ValueError, r"input: was of shape \[-3, 2, 64\]; allowed: "),
        ({"input": (3, 2, 2**61)}, ValueError, r"input: was of shape \[3, 2, \d+\]; allowed: at most "),
        ({"input": 5}, TypeError, r"input: was of type int; allowed: a torch.Tensor, or its shape"),
        ({"input": (3, 2.5, 64)}, TypeError, r"input: was \(3, 2.5, 64\); allowed: a torch.Tensor, or its shape"),
        ({"input": DENSE.to_sparse()}, TypeError, r"input: was of layout torch.sparse_coo; allowed: a dense"),
        ({"dtype": torch.int32}, TypeError, r"input: was of dtype int32; allowed: "),
        ({"dtype": "float32"}, TypeError, r"dtype: was of type str; allowed: a torch.dtype"),
        ({"device": "gpu"}, ValueError, r"device: was 'gpu'; allowed: cpu or cuda"),
        ({"device": "mps"}, ValueError, r"device: was mps; allowed: cpu or cuda"),
        ({"output": (3, 64)}, TypeError, r"output: was of type tuple; allowed: a torch.Tensor"),
        ({"out_dtype": torch.float16}, TypeError, r"out_dtype: was torch.float16; allowed: bfloat16 as the input"),
        ({"out_dtype": "float32"}, TypeError, r"out_dtype: was of type str; allowed: a torch.dtype"),
        (
            {"input": DENSE, "output": DENSE[:, 0].clone(), "out_dtype": torch.float16},
            TypeError,
            "out_dtype: was torch",
        ),
        ({"topk_weights": 1}, TypeError, f"topk_weights: was of type int; {FLAG}"),
        ({"topk_ids": [1, 2]}, TypeError, f"topk_ids: was of type list; {FLAG}"),
        ({"topk_weights": DENSE[..., 0].to_sparse()}, TypeError, "topk_weights: was of layout torch.sparse_coo"),
        ({"input": (6, 64), "inv_permuted_idx": True}, TypeError, r"inv_permuted_idx: was of type bool; allowed: "),
        ({"input": (6, 64), "inv_permuted_idx": 3}, TypeError, r"inv_permuted_idx: was of type int; allowed: "),
        ({"input": (6, 64), "inv_permuted_idx": (4,)}, ValueError, rf"inv_permuted_idx: was of shape \[4\]; {SLOTS}"),
        ({"input": (6, 64), "inv_permuted_idx": (4, 2, 1)}, ValueError, rf"inv_permuted_idx: was of .*; {SLOTS}"),
        ({"input": (6, 64), "inv_permuted_idx": (-4, 2)}, ValueError, rf"inv_permuted_idx: was of .*; {SLOTS}"),
        ({"architecture": 75}, ValueError, r"architecture: was 75; allowed: 0, or 80 to "),
        ({"architecture": 2**40}, ValueError, r"architecture: was \d+; allowed: 0, or 80 to "),
        ({"architecture": 90}, ValueError, r"architecture: was 90, on cpu; allowed: 0, but with device='cuda'"),
        ({"architecture": "90"}, TypeError, r"architecture: was of type str; allowed: an int"),
        ({"multiprocessors": 0}, ValueError, r"multiprocessors: was 0; allowed: 1 to "),
        ({"l2_mib": 0}, ValueError, r"l2_mib: was 0; allowed: 1 to "),
        ({"behind": "both"}, ValueError, r"behind: was 'both'; allowed: 'trigger', 'ordinary'"),
        ({"pdl": "no"}, TypeError, r"pdl: was of type str; allowed: True or False"),
    ],
    ids=str,
)
def test_explain_refuses(call: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        moe_cute.explain(**{"input": (3, 2, 64)} | call)


def test_what_is_only_described_overlaps_with_nothing() -> None:
    assert moe_cute.explain((2**40, 8, 2048), device="cuda", architecture=90).variant
    assert moe_cute.sum_reduce(torch.empty(2**22, 2**22, 2**4, device="meta")).shape == (2**22, 2**4)


def test_the_extension_knows_what_a_call_may_be_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_explanation, "BEHIND", ("sideways",))
    with pytest.raises(ValueError, match=r"^behind: was sideways; allowed: trigger, ordinary or nothing"):
        moe_cute.explain((1, 8, 2048), device="cuda", architecture=90, behind="sideways")


def test_explain_refuses_what_sum_reduce_refuses(device: torch.device) -> None:
    input = torch.zeros(3, 2, 64, device=device)
    with pytest.raises(ValueError, match=r"^output: was of shape \[3, 63\]; allowed: "):
        moe_cute.explain(input, torch.zeros(3, 63, device=device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to ask")
def test_explain_for_a_gpu_that_is_not_here() -> None:
    with pytest.raises(RuntimeError, match=r"^device: was cuda, which does not answer .* the architecture of the one"):
        moe_cute.explain((3, 2, 64), device="cuda")
