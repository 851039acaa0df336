"""Every variant in the manifest, forced by name: right on what it accepts, else refused with the reason."""

import pytest
import torch

import moe_cute
from tests.calls import FULLEST, Call, Fusion, fused_call, plain_call
from tests.memory import canvas, placed
from tests.reference import assert_same_bits
from tests.variants import EPILOGUES, VARIANTS, Variant, manifest, variants_where


def test_the_table_is_the_manifest() -> None:
    columns = ("name", "backend", "dtype", "hidden", "topk", "vector_width", "epilogue", "unaligned")
    compiled = [[row[key] for key in columns] for row in moe_cute.variants()]
    listed = [[row[key] or 0 for key in columns] for row in manifest()["variants"]]
    assert compiled == listed
    assert all(row["built"] for row in moe_cute.variants() if row["backend"] == "cpu")


def accepted_shapes(variant: Variant) -> list[tuple[int, int, int]]:
    """(tokens, topk, hidden), in elements of this variant's vector."""
    width = variant.vector_width
    if variant.hidden is not None:
        hidden_sizes = [variant.hidden]
    else:
        hidden_sizes = [
            width,  # a single vector
            3 * width,  # an odd number of vectors
            331 * width,  # several blocks and a ragged last one
        ]
        if variant.unaligned:
            hidden_sizes += [width + 1, 2 * width - 1, 331 * width + 1]  # whose last two vectors overlap
        if variant.backend == "cpu":
            hidden_sizes += [1, width - 1, width + 1, 5 * width // 2]  # what no vector covers
    topks = [variant.topk] if variant.topk is not None else [0, 1, 3, 4, 5, 8, 11, 20]  # around chunks of 8 and 4
    # 1: no stride is ever used; 3: rows that cross a block of threads.
    return [(tokens, topk, hidden) for hidden in hidden_sizes for topk in topks for tokens in (1, 3)]


def least_call(variant: Variant, tokens: int, topk: int, hidden: int, dtype: torch.dtype, rng: torch.Generator) -> Call:
    """A call with no more than what the variant's epilogue cannot do without."""
    if variant.epilogue == "permuted":
        return fused_call(Fusion(rows=torch.int32), tokens, topk, hidden, dtype, rng)
    return plain_call(tokens, topk, hidden, dtype, rng)


@pytest.mark.parametrize("variant", variants_where())
def test_equals_the_reference(variant: Variant, rng: torch.Generator) -> None:
    for tokens, topk, hidden in accepted_shapes(variant):
        least_call(variant, tokens, topk, hidden, variant.dtype, rng).check(variant.backend, variant.name)
        if variant.epilogue != "plain" and topk > 0:
            fused_call(FULLEST[variant.epilogue], tokens, topk, hidden, variant.dtype, rng).check(
                variant.backend, variant.name
            )


@pytest.mark.parametrize(
    "variant", variants_where(lambda variant: variant.backend == "cuda" and variant.vector_width > 1)
)
def test_alignment_of_one_vector_is_enough(variant: Variant, rng: torch.Generator) -> None:
    """Or of one element, where the variant is for that."""
    width = 1 if variant.unaligned else variant.vector_width
    topk, hidden = variant.topk or 3, variant.hidden or 5 * variant.vector_width + variant.unaligned
    call = least_call(variant, 3, topk, hidden, variant.dtype, rng)
    apart = 0 if variant.hidden else width  # a specialised hidden size wants packed rows
    tensors = {name: tensor.cuda() for name, tensor in call.tensors.items()}
    strides = (hidden + apart, 1) if "inv_permuted_idx" in tensors else (topk * hidden + apart, hidden, 1)
    input = placed(call.input, "cuda", strides=strides, offset=width)
    out = canvas((3, hidden), variant.dtype, "cuda", strides=(hidden + apart, 1), offset=width)
    moe_cute.sum_reduce(input, out.view, call.scale, **tensors, variant=variant.name)
    out.assert_written_inside_only()
    assert_same_bits(out.view, call.expected())


def refused_calls(variant: Variant, rng: torch.Generator) -> list[tuple[str, Call, dict[str, str]]]:
    """One call for each constraint, that violates only this one: (the reason, the call, its layouts)."""
    dtype, width = variant.dtype, variant.vector_width
    topk, hidden = variant.topk or 3, variant.hidden or 3 * width
    plain = plain_call(3, topk, hidden, dtype, rng)
    least = least_call(variant, 3, topk, hidden, dtype, rng)
    other = torch.float64 if dtype is not torch.float64 else torch.float32
    calls: list[tuple[str, Call, dict[str, str]]] = [("it reads", plain_call(3, topk, hidden, other, rng), {})]
    if variant.epilogue == "permuted":
        calls.append(("it looks up rows, and the call has no inv_permuted_idx", plain, {}))
    for epilogue in EPILOGUES[EPILOGUES.index(variant.epilogue) + 1 :]:
        calls.append((f"needs the {epilogue} epilogue", fused_call(FULLEST[epilogue], 3, topk, hidden, dtype, rng), {}))
    if variant.epilogue != "routed" and dtype is torch.float32:
        narrowed = fused_call(Fusion(out_dtype=torch.bfloat16), 3, topk, hidden, dtype, rng)
        calls.append(("needs the routed epilogue", narrowed, {}))
    if variant.topk is not None:
        more = least_call(variant, 3, topk + 1, hidden, dtype, rng)
        calls.append((f"topk is {topk + 1}, not {topk}", more, {}))
    if variant.hidden is not None:
        calls.append((f"not {hidden}", plain_call(3, topk, hidden + width, dtype, rng), {}))
        if topk > 1:
            calls.append(("the topk rows are .*, not packed", plain, {"input_layout": "sliced_rows"}))
        calls.append(("the input's tokens are .*, not packed", plain, {"input_layout": "sliced_topk"}))
        calls.append(("the output's rows are .*, not packed", plain, {"output_layout": "column_slice"}))
    if variant.unaligned:
        short = least_call(variant, 3, topk, width - 1, dtype, rng)
        calls.append((f"hidden size {width - 1} is less than {width}", short, {}))
        if variant.epilogue != "permuted":
            calls.append(("input's hidden stride is 2", plain, {"input_layout": "every_second_element"}))
        calls.append(("output's hidden stride is 2", least, {"output_layout": "every_second_element"}))
    elif variant.backend == "cuda" and width > 1:
        if variant.hidden is None:
            calls.append((f"no multiple of {width}", least_call(variant, 3, topk, hidden + 1, dtype, rng), {}))
        if variant.hidden is None and variant.epilogue != "permuted":
            if topk > 1:
                calls.append(("input's topk rows are", plain, {"input_layout": "sliced_rows_odd"}))
            calls.append(("input's hidden stride is 2", plain, {"input_layout": "every_second_element"}))
            calls.append(("input's rows are", plain, {"input_layout": "padded_tokens_odd"}))
        if variant.epilogue != "permuted":
            calls.append(("input starts", plain, {"input_layout": "offset_by_one"}))
        calls.append(("output starts", least, {"output_layout": "offset_by_one"}))
        calls.append(("output's hidden stride is 2", least, {"output_layout": "every_second_element"}))
    return calls


@pytest.mark.parametrize("variant", variants_where())
def test_refuses_with_the_reason_and_writes_nothing(variant: Variant, rng: torch.Generator) -> None:
    for reason, call, layouts in refused_calls(variant, rng):
        arguments, tensors, out = call.place(variant.backend, **layouts)
        with pytest.raises(ValueError, match=rf"^variant: was {variant.name}, but .*{reason}.*; allowed: "):
            moe_cute.sum_reduce(*arguments, **tensors, variant=variant.name)
        out.assert_untouched()


@pytest.mark.parametrize("variant", variants_where(lambda variant: variant.unaligned and variant.epilogue != "plain"))
def test_nothing_is_added_twice(variant: Variant, rng: torch.Generator) -> None:
    """Where shared_output is the output itself, no two vectors may have elements in common."""
    in_place = Fusion(shared="output", rows=torch.int32 if variant.epilogue == "permuted" else None)
    for rest in range(variant.vector_width):
        hidden = 3 * variant.vector_width + rest
        call = fused_call(in_place, 3, variant.topk or 3, hidden, variant.dtype, rng)
        if rest == 0:
            call.check(variant.backend, variant.name)
            continue
        arguments, tensors, out = call.place(variant.backend)
        with pytest.raises(ValueError, match="would be added twice"):
            moe_cute.sum_reduce(*arguments, **tensors, variant=variant.name)
        assert_same_bits(out.view, call.tensors["shared_output"])


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.backend == "cuda"][::20], ids=lambda variant: variant.name
)
def test_cuda_variants_are_refused_on_the_cpu(variant: Variant, rng: torch.Generator) -> None:
    call = plain_call(2, variant.topk or 3, variant.hidden or variant.vector_width, variant.dtype, rng)
    with pytest.raises(ValueError, match="it runs on cuda, the input is on cpu"):
        call.run("cpu", variant.name)


def test_an_unknown_variant_is_refused(device: torch.device, rng: torch.Generator) -> None:
    with pytest.raises(
        ValueError, match=r"^variant: was sum_reduce_of_mine, but there is no variant of that name; allowed: "
    ):
        plain_call(2, 3, 4, torch.float32, rng).run(device, "sum_reduce_of_mine")
