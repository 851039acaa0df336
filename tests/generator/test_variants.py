"""Which kernels a spec makes, what they are called, and in which order they are tried."""

import re
from pathlib import Path

import pytest

from generator import rules
from generator.cli import SPEC
from generator.spec import load
from generator.variant import Variant
from generator.vocabulary import DTYPES

BUILT = load(SPEC)
COMMITTED = rules.variants(BUILT)

NAME = re.compile(
    r"sum_reduce_(?P<backend>cuda|cpu)(_(?P<instruction_set>baseline|avx2|avx512))?_(?P<dtype>f16|bf16|f32|f64)"
    r"_h(?P<hidden>\d+|any)_k(?P<topk>\d+|any)_v(?P<vector_width>\d+)(_(?P<epilogue>weighted|permuted|routed))?"
    r"(?P<unaligned>_unaligned)?"
)


@pytest.mark.parametrize("variant", COMMITTED, ids=lambda variant: variant.name)
def test_a_name_says_everything(variant: Variant) -> None:
    match = NAME.fullmatch(variant.name)
    assert match is not None
    assert match["backend"] == variant.backend
    assert match["instruction_set"] == variant.instruction_set
    assert match["dtype"] == DTYPES[variant.dtype].short
    assert match["hidden"] == str(variant.hidden or "any")
    assert match["topk"] == str(variant.topk or "any")
    assert int(match["vector_width"]) == variant.vector_width
    assert (match["epilogue"] or "plain") == variant.epilogue
    assert bool(match["unaligned"]) is variant.unaligned


def test_names_and_types_are_spelled_as_agreed() -> None:
    variant = Variant("cuda", "bfloat16", 4096, 8, 8, None, "plain", False)
    assert variant.name == "sum_reduce_cuda_bf16_h4096_k8_v8"
    assert variant.file == "sum_reduce_cuda_bf16.cu"
    assert variant.cpp_type == "Configuration<DType::kBFloat16, 4096, 8, 8, Epilogue::kPlain>"
    assert variant.constraints == [
        "hidden == 4096, rows and tokens packed",
        "topk == 8",
        "aligned to 16 bytes",
        "sum and scale only",
    ]
    variant = Variant("cpu", "float32", None, None, 16, "avx2", "routed", False)
    assert variant.name == "sum_reduce_cpu_avx2_f32_hany_kany_v16_routed"
    assert variant.file == "sum_reduce_cpu_f32.cpp"
    assert variant.cpp_type == "Configuration<DType::kFloat32, kAny, kAny, 16, Epilogue::kRouted>"
    assert variant.constraints == ["AVX2, FMA, F16C", "every argument"]
    variant = Variant("cuda", "float16", None, 6, 4, None, "weighted", True)
    assert variant.name == "sum_reduce_cuda_f16_hany_k6_v4_weighted_unaligned"
    assert variant.cpp_type == "Configuration<DType::kFloat16, kAny, 6, 4, Epilogue::kWeighted, Alignment::kElement>"
    assert variant.constraints == ["hidden >= 4, contiguous", "topk == 6", "topk_weights, shared_output"]


def test_names_are_unique() -> None:
    names = [variant.name for variant in COMMITTED]
    assert len(set(names)) == len(names)


def names(path: Path) -> list[str]:
    return [variant.name for variant in rules.variants(load(path))]


def test_what_a_small_spec_makes(spec: Path) -> None:
    text = spec.read_text().replace("  float16: {vector_widths: [1, 2, 4, 8]}\n", "")
    spec.write_text(text.replace("[plain, weighted, routed]", "[plain, routed]"))
    assert names(spec) == [
        "sum_reduce_cuda_f64_h4096_k8_v2",
        "sum_reduce_cuda_f64_h4096_k8_v1",
        "sum_reduce_cuda_f64_hany_k8_v2",
        "sum_reduce_cuda_f64_hany_k8_v1",
        "sum_reduce_cuda_f64_hany_kany_v2",
        "sum_reduce_cuda_f64_hany_kany_v2_unaligned",
        "sum_reduce_cuda_f64_hany_kany_v1",
        "sum_reduce_cuda_f64_hany_k8_v2_routed",
        "sum_reduce_cuda_f64_hany_k8_v1_routed",
        "sum_reduce_cuda_f64_hany_kany_v2_routed",
        "sum_reduce_cuda_f64_hany_kany_v1_routed",
        "sum_reduce_cpu_avx2_f64_hany_k8_v8",
        "sum_reduce_cpu_baseline_f64_hany_k8_v8",
        "sum_reduce_cpu_avx2_f64_hany_kany_v8",
        "sum_reduce_cpu_baseline_f64_hany_kany_v8",
        "sum_reduce_cpu_avx2_f64_hany_kany_v8_routed",
        "sum_reduce_cpu_baseline_f64_hany_kany_v8_routed",
    ]


def test_the_order_of_lists_in_a_spec_does_not_matter(spec: Path) -> None:
    before = names(spec)
    text = spec.read_text().replace("[4096, any]", "[any, 4096]").replace("[8, any]", "[any, 8]")
    spec.write_text(text.replace("[1, 2, 4, 8]", "[8, 1, 4, 2]").replace("[baseline, avx2]", "[avx2, baseline]"))
    assert names(spec) == before


def test_a_new_hidden_size_adds_its_variants_and_changes_no_other(spec: Path) -> None:
    before = names(spec)
    spec.write_text(spec.read_text().replace("[4096, any]", "[4096, 6144, any]"))
    after = names(spec)
    assert [name for name in after if "_h6144_" not in name] == before
    assert [name for name in after if "_h6144_" in name] == [
        "sum_reduce_cuda_f16_h6144_k8_v8",
        "sum_reduce_cuda_f16_h6144_k8_v4",
        "sum_reduce_cuda_f16_h6144_k8_v2",
        "sum_reduce_cuda_f64_h6144_k8_v2",
        "sum_reduce_cuda_f64_h6144_k8_v1",
    ]


def test_only_widths_that_divide_a_hidden_size_are_made(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("[4096, any]", "[2882, any]"))
    assert [name for name in names(spec) if "f16_h2882" in name] == ["sum_reduce_cuda_f16_h2882_k8_v2"]


def test_it_is_no_blind_product() -> None:
    for variant in COMMITTED:
        if variant.hidden is not None:
            assert (variant.backend, variant.epilogue) == ("cuda", "plain")
            assert variant.topk is not None
            assert variant.vector_width * DTYPES[variant.dtype].bytes in (4, 8, 16)
        if variant.backend == "cpu":
            assert variant.vector_width * DTYPES[variant.dtype].bytes == 64
        if variant.epilogue == "routed" and variant.backend == "cuda":
            widths = {each.vector_width for each in COMMITTED if (each.backend, each.dtype) == ("cuda", variant.dtype)}
            assert variant.vector_width in {*sorted(widths)[-2:], 1}
        if variant.unaligned:
            assert (variant.backend, variant.hidden) == ("cuda", None)
            looped = (2, 4) if variant.epilogue == "permuted" else (2, 8)
            widths = {2: looped, 4: (2,), 8: (2,)} if variant.topk is None else {2: (2, 4), 4: (2,), 8: ()}
            assert variant.vector_width in widths[DTYPES[variant.dtype].bytes]


def test_many_rows_have_no_wide_unaligned_vectors() -> None:
    """They would spill."""
    assert rules.up_to_20([8, 20, 22, "any"]) == [8, 20]
    assert rules.four_halves("bfloat16", [1, 2, 4, 8]) == [4]
    assert rules.four_halves("float32", [1, 2, 4]) == []


@pytest.mark.parametrize("dtype", BUILT.vector_widths)
@pytest.mark.parametrize("epilogue", BUILT.epilogues)
def test_every_call_finds_a_variant(dtype: str, epilogue: str) -> None:
    general = {
        (variant.backend, variant.instruction_set)
        for variant in COMMITTED
        if (variant.dtype, variant.epilogue, variant.hidden, variant.topk) == (dtype, epilogue, None, None)
        and (variant.backend == "cpu" or variant.vector_width == 1)
        and not variant.unaligned
    }
    instruction_sets = BUILT.backends.cpu.instruction_sets
    assert general == {("cuda", None), *(("cpu", instruction_set) for instruction_set in instruction_sets)}
