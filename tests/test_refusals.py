"""A wrong call is refused before anything is written: the argument's name, what it was, and what is allowed."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.memory import canvas
from tests.refusals import HIDDEN, TOKENS, TOPK, good, refused


def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Callable[[torch.device], Tensor]:
    return lambda device: torch.zeros(shape, dtype=dtype, device=device)


def sparse(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Callable[[torch.device], Tensor]:
    return lambda device: torch.zeros(shape, dtype=dtype, device=device).to_sparse()


FLOAT32, INT32 = torch.float32, torch.int32
ANY_FLOAT = "float16, bfloat16, float32 or float64"
INPUT_SHAPE = r"shape \[tokens, topk, hidden\]"
SLOTS, OUTPUTS = r"\[tokens, topk\]", r"\[tokens, hidden\]"
HOME = "the input's device"

# argument; what it is: a value, or a function of the device that makes it; how the message calls that; what it allows.
Case = tuple[str, Any, str, str]

WRONG_VALUES: list[Case] = [
    ("input", zeros(3, 8), r"of shape \[3, 8\]", INPUT_SHAPE),
    ("input", zeros(8), r"of shape \[8\]", INPUT_SHAPE),
    ("input", zeros(), r"of shape \[\]", INPUT_SHAPE),
    ("input", zeros(1, 3, 2, 8), "a tensor of rank 4", INPUT_SHAPE),
    ("input", zeros(1, 1, 1, 0), "a tensor of rank 4", INPUT_SHAPE),
    ("output", zeros(3, 1, 8), r"of shape \[3, 1, 8\]", OUTPUTS),
    ("output", zeros(8), r"of shape \[8\]", OUTPUTS),
    ("output", zeros(4, 8), r"of shape \[4, 8\]", rf"{OUTPUTS} = \[3, 8\]"),
    ("output", zeros(3, 7), r"of shape \[3, 7\]", rf"{OUTPUTS} = \[3, 8\]"),
    ("output", zeros(3, 0), r"of shape \[3, 0\]", rf"{OUTPUTS} = \[3, 8\]"),
    ("output", torch.zeros(3, 8, dtype=torch.bfloat16, device="meta"), "on another device", HOME),
    ("routed_scaling_factor", float("nan"), "nan", "a number"),
    ("topk_weights", zeros(3, 3, dtype=FLOAT32), r"of shape \[3, 3\]", rf"{SLOTS} = \[3, 2\]"),
    ("topk_weights", zeros(3, 2, 1, dtype=FLOAT32), r"of shape \[3, 2, 1\]", SLOTS),
    ("topk_weights", torch.zeros(3, 2, device="meta"), "on another device", HOME),
    ("topk_ids", zeros(2, 3, dtype=INT32), r"of shape \[2, 3\]", rf"{SLOTS} = \[3, 2\]"),
    ("topk_ids", zeros(6, dtype=INT32), r"of shape \[6\]", SLOTS),
    ("expert_map", zeros(4, dtype=INT32), "given without topk_ids", "both, or topk_ids alone"),
    ("shared_output", zeros(3, 7), r"of shape \[3, 7\]", rf"{OUTPUTS} = \[3, 8\]"),
    ("shared_output", zeros(8), r"of shape \[8\]", OUTPUTS),
    ("num_tokens", zeros(2, dtype=INT32), r"of shape \[2\]", "one element"),
    ("num_tokens", zeros(0, dtype=INT32), r"of shape \[0\]", "one element"),
    ("variant", "", "but there is no variant of that name", r"one of moe_cute.variants\(\) that moe_cute.explain"),
    ("variant", "\ud800", r"'\\ud800'", r"one of moe_cute.variants\(\), or None"),
]


def wrong_dtypes(argument: str, shape: tuple[int, ...], allowed: str, *dtypes: torch.dtype) -> list[Case]:
    return [(argument, zeros(*shape, dtype=dtype), f"of dtype {str(dtype)[6:]}", allowed) for dtype in dtypes]


INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)
OTHER_FLOATS = (torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2)

WRONG_TYPES: list[Case] = [
    *wrong_dtypes("input", (3, 2, 8), ANY_FLOAT, *INTEGERS, *OTHER_FLOATS),
    *wrong_dtypes("output", (3, 8), "bfloat16 as the input, or float32", torch.float16, torch.float64),
    *wrong_dtypes("output", (3, 8), "bfloat16 as the input, or float32", *INTEGERS, *OTHER_FLOATS),
    *wrong_dtypes("topk_weights", (3, 2), "float32 or the input's bfloat16", torch.float16, torch.float64, torch.int32),
    *wrong_dtypes("topk_ids", (3, 2), "int32 or int64", torch.int16, torch.uint8, torch.float32),
    *wrong_dtypes("shared_output", (3, 8), "the output's bfloat16", torch.float32, torch.int32),
    *wrong_dtypes("num_tokens", (1,), "int32", torch.int64, torch.float32),
    ("out_dtype", torch.float32, "torch.float32", "the output's torch.bfloat16, or None"),
    ("out_dtype", "bfloat16", "of type str", "a torch.dtype"),
    ("pdl", "no", "of type str", "True or False"),
    ("pdl", zeros(dtype=torch.bool), "of type Tensor", "True or False"),
    ("pdl", 1, "of type int", "True or False"),
    ("input", None, "None", "a torch.Tensor"),
    ("input", [[[1.0]]], "of type list", "a torch.Tensor"),
    ("input", torch.zeros(3, 2, 8).numpy(), "of type ndarray", "a torch.Tensor"),
    ("output", [[0.0] * 8] * 3, "of type list", "a torch.Tensor"),
    ("output", torch.zeros(3, 8).numpy(), "of type ndarray", "a torch.Tensor"),
    ("topk_weights", [[1.0, 1.0]] * 3, "of type list", "a torch.Tensor"),
    ("topk_ids", [[0, 1]] * 3, "of type list", "a torch.Tensor"),
    ("shared_output", 1.0, "of type float", "a torch.Tensor"),
    ("num_tokens", 2, "of type int", "a torch.Tensor"),
    ("input", sparse(3, 2, 8), "sparse", "dense"),
    ("output", sparse(3, 8), "sparse", "dense"),
    ("output", lambda device: zeros(3, 8)(device).to_sparse_csr(), "sparse", "dense"),
    ("topk_weights", sparse(3, 2, dtype=FLOAT32), "sparse", "dense"),
    ("topk_ids", sparse(3, 2, dtype=INT32), "sparse", "dense"),
    ("shared_output", sparse(3, 8), "sparse", "dense"),
    ("routed_scaling_factor", "2", "of type str", "a float or an int"),
    ("routed_scaling_factor", None, "of type NoneType", "a float or an int"),
    ("routed_scaling_factor", True, "of type bool", "a float or an int"),
    ("routed_scaling_factor", 1j, "of type complex", "a float or an int"),
    ("routed_scaling_factor", [2.0], "of type list", "a float or an int"),
    ("routed_scaling_factor", zeros(), "of type Tensor", "a float or an int"),
    ("variant", 8, "of type int", "str"),
]


def named(case: Case) -> str:
    argument, _, was, _ = case
    return f"{argument}-{was.replace(chr(92), '')}"


def one_wrong(device: torch.device, error: type[Exception], case: Case) -> None:
    argument, value, was, allowed = case
    arguments, out = good(device)
    arguments[argument] = value(device) if callable(value) else value
    refused(arguments, error, argument, was, allowed)
    out.assert_untouched()


@pytest.mark.parametrize("case", WRONG_VALUES, ids=named)
def test_wrong_value(device: torch.device, case: Case) -> None:
    one_wrong(device, ValueError, case)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("case", WRONG_TYPES, ids=named)
def test_wrong_type(device: torch.device, case: Case) -> None:
    one_wrong(device, TypeError, case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_mixed_dtypes(device: torch.device, dtype: torch.dtype) -> None:
    arguments, out = good(device, torch.float16 if dtype is not torch.float16 else torch.float64)
    wrong = canvas((TOKENS, HIDDEN), torch.bfloat16, device)
    refused(arguments | {"output": wrong.view}, TypeError, "output", "of dtype bfloat16", "as the input")
    wrong.assert_untouched()
    out.assert_untouched()


def test_float64_stays_float64(device: torch.device) -> None:
    arguments, _ = good(device, torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        wrong = canvas((TOKENS, HIDDEN), dtype, device)
        refused(arguments | {"output": wrong.view}, TypeError, "output", "of dtype", "float64, as the input")
        wrong.assert_untouched()
        made = {"input": arguments["input"], "out_dtype": dtype}
        with pytest.raises(TypeError, match="float64, as the input"):
            moe_cute.sum_reduce(**made)


def test_routing_with_a_permutation(device: torch.device) -> None:
    rows = torch.zeros(10, HIDDEN, dtype=torch.bfloat16, device=device)
    index = zeros(TOKENS, TOPK, dtype=INT32)(device)
    good_arguments, out = good(device)
    permuted = good_arguments | {"input": rows, "inv_permuted_idx": index}
    refused(
        good_arguments | {"inv_permuted_idx": index}, ValueError, "input", r"of shape \[3, 2, 8\]", r"\[rows, hidden\]"
    )
    refused(
        permuted | {"inv_permuted_idx": index.flatten()},
        ValueError,
        "inv_permuted_idx",
        r"of shape \[6\]",
        r"\[tokens, topk\]",
    )
    refused(
        permuted | {"inv_permuted_idx": index.short()},
        TypeError,
        "inv_permuted_idx",
        "of dtype int16",
        "int32 or int64",
    )
    refused(permuted | {"inv_permuted_idx": index[:2]}, ValueError, "output", r"of shape \[3, 8\]", r"= \[2, 8\]")
    refused(permuted | {"topk_ids": index[:, :1]}, ValueError, "topk_ids", r"of shape \[3, 1\]", r"= \[3, 2\]")
    out.assert_untouched()


def test_expert_map(device: torch.device) -> None:
    arguments, out = good(device)
    arguments["topk_ids"] = zeros(TOKENS, TOPK, dtype=INT32)(device)
    refused(
        arguments | {"expert_map": zeros(2, 2, dtype=INT32)(device)},
        ValueError,
        "expert_map",
        r"of shape \[2, 2\]",
        r"shape \[experts\]",
    )
    refused(
        arguments | {"expert_map": zeros(4, dtype=torch.int64)(device)},
        TypeError,
        "expert_map",
        "of dtype int64",
        "int32",
    )
    refused(arguments | {"expert_map": {0: 1}}, TypeError, "expert_map", "of type dict", "a torch.Tensor")
    out.assert_untouched()


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("argument", ["input", "output", "topk_weights", "topk_ids", "shared_output"])
def test_what_torch_cannot_hand_over(argument: str) -> None:
    """Both ways, with the names of what torch itself would not say so."""
    arguments, out = good(torch.device("cpu"))
    nested = torch.nested.nested_tensor([torch.ones(TOPK, HIDDEN), torch.ones(1, HIDDEN)])
    bits = torch.zeros(TOKENS, TOPK, dtype=torch.uint8).view(torch.bits8)
    allowed = "int32 or int64" if argument == "topk_ids" else ANY_FLOAT
    for requires_grad in (False, True):
        if requires_grad and argument not in ("input", "output"):
            del arguments["output"]
            arguments["input"].requires_grad_()
        refused(arguments | {argument: nested}, TypeError, argument, "a nested tensor", "a dense tensor")
        refused(arguments | {argument: bits}, TypeError, argument, "of dtype bits8", allowed)
    out.assert_untouched()


@pytest.mark.filterwarnings("ignore:.*quantized")
def test_quantized() -> None:
    arguments, out = good(torch.device("cpu"))
    quantized = torch.quantize_per_tensor(torch.zeros(TOKENS, TOPK, HIDDEN), 0.1, 0, torch.qint8)
    refused(arguments | {"input": quantized}, TypeError, "input", "quantized", ANY_FLOAT)
    out.assert_untouched()
    refused(arguments | {"output": quantized[:, 0]}, TypeError, "output", "quantized", ANY_FLOAT)
    ids = torch.quantize_per_tensor(torch.zeros(TOKENS, TOPK), 0.1, 0, torch.qint32)
    refused(arguments | {"topk_ids": ids}, TypeError, "topk_ids", "quantized", "int32 or int64")


# Autograd


def test_output_that_requires_grad(device: torch.device) -> None:
    arguments, _ = good(device, torch.float32)
    output = torch.zeros(TOKENS, HIDDEN, device=device, requires_grad=True)
    with torch.no_grad():
        refused(arguments | {"output": output}, ValueError, "output", "requires grad", "one that does not, or None")
    refused(arguments | {"output": output}, ValueError, "output", "requires grad", "one that does not, or None")


def test_output_while_the_input_requires_grad(device: torch.device) -> None:
    arguments, out = good(device, torch.float32)
    arguments["input"].requires_grad_()
    refused(arguments, ValueError, "output", "given while input requires grad", "moe_cute.sum_reduce without it")
    out.assert_untouched()
    with torch.no_grad():
        moe_cute.sum_reduce(**arguments)
    out.assert_written_inside_only()


# Devices


@pytest.mark.gpu
@pytest.mark.parametrize(
    "argument", ["output", "topk_weights", "topk_ids", "expert_map", "shared_output", "num_tokens"]
)
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_two_devices(argument: str, home: str) -> None:
    away = {"cpu": "cuda", "cuda": "cpu"}[home]
    arguments, out = good(torch.device(home))
    everything = {
        "output": out.view,
        "topk_weights": torch.zeros(TOKENS, TOPK, device=home),
        "topk_ids": zeros(TOKENS, TOPK, dtype=INT32)(torch.device(home)),
        "expert_map": zeros(4, dtype=INT32)(torch.device(home)),
        "shared_output": torch.zeros(TOKENS, HIDDEN, dtype=torch.bfloat16, device=home),
        "num_tokens": zeros(1, dtype=INT32)(torch.device(home)),
    }
    arguments |= everything | {argument: everything[argument].to(away)}
    refused(arguments, ValueError, argument, f"on {away}", f"the input's device, {home}")
    out.assert_untouched()


def test_the_operator_refuses_too(device: torch.device) -> None:
    """What reaches torch.ops directly meets the same checks."""
    input = torch.zeros(TOKENS, TOPK, HIDDEN, device=device)
    for output, message in [
        (torch.zeros(TOKENS, HIDDEN + 1, device=device), r"output: was of shape \[3, 9\]; allowed: "),
        (torch.zeros(TOKENS, HIDDEN, dtype=torch.int32, device=device), r"output: was of dtype int32; allowed: "),
        (input[:, 0], r"output: was in memory that the input also uses; allowed: "),
    ]:
        with pytest.raises((RuntimeError, ValueError, TypeError), match=message):
            torch.ops.moe_cute.sum_reduce_out(input, output)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.int8,
        torch.int16,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.complex32,
        torch.complex64,
        torch.complex128,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
    ],
    ids=str,
)
def test_both_ways_in_name_the_dtype(dtype: torch.dtype) -> None:
    input, ids = torch.ones(3, 2, 8), torch.empty(3, 2, dtype=dtype)
    for each in (input, input.clone().requires_grad_()):
        with pytest.raises(TypeError, match=rf"^topk_ids: was of dtype {str(dtype)[6:]}; allowed: int32 or int64"):
            moe_cute.sum_reduce(each, topk_ids=ids)


def test_the_operator_refuses_a_write_that_autograd_cannot_follow(device: torch.device) -> None:
    input, output = torch.ones(TOKENS, TOPK, HIDDEN, device=device), torch.zeros(TOKENS, HIDDEN, device=device)
    with pytest.raises(ValueError, match=r"^output: was given while input requires grad"):
        torch.ops.moe_cute.sum_reduce_out(input.clone().requires_grad_(), output)
    with pytest.raises(ValueError, match=r"^output: was given while shared_output requires grad"):
        shared = output.clone().requires_grad_()
        torch.ops.moe_cute.sum_reduce_out(input, output, 1.0, None, None, None, None, shared)
    leaf = output.clone().requires_grad_()
    with pytest.raises(ValueError, match=r"^output: was a tensor that requires grad"):
        torch.ops.moe_cute.sum_reduce_out(input, leaf)
    assert bool((output == 0).all()) and bool((leaf == 0).all())


@pytest.mark.parametrize(
    ("argument", "value", "error", "was"),
    [
        ("topk_weights", zeros(TOKENS, TOPK, dtype=torch.int32), TypeError, "of dtype int32"),
        ("topk_weights", zeros(TOKENS, 9, dtype=FLOAT32), ValueError, r"of shape \[3, 9\]"),
        ("inv_permuted_idx", zeros(dtype=INT32), ValueError, r"of shape \[\]"),
        ("input", zeros(8), ValueError, r"of shape \[8\]"),
        ("out_dtype", torch.int32, TypeError, "torch.int32"),
        ("out_dtype", torch.float64, TypeError, "torch.float64"),
        ("out_dtype", torch.bits8, TypeError, "torch.bits8"),
        ("out_dtype", lambda device: float, TypeError, "of type type"),
        ("pdl", 0, TypeError, "of type int"),
        ("variant", "a\0b", ValueError, "a name with a null character"),
        ("variant", "\ud800", ValueError, r"'\\ud800'"),
        ("routed_scaling_factor", 10**400, ValueError, "an int beyond float64"),
    ],
)
def test_both_ways_refuse_alike(
    device: torch.device, argument: str, value: Any, error: type[Exception], was: str
) -> None:
    """The direct way, and the operator's, which is taken under autograd."""
    arguments, _ = good(device)
    del arguments["output"]
    arguments[argument] = value(device) if callable(value) else value
    if argument == "inv_permuted_idx":
        arguments["input"] = arguments["input"].flatten(0, 1)
    for requires_grad in (False, True):
        arguments["input"].requires_grad_(requires_grad)
        refused(arguments, error, argument, was, "")


def test_a_tensor_whose_memory_is_gone(device: torch.device) -> None:
    arguments, out = good(device)
    weights = torch.ones(TOKENS, TOPK, device=device)
    weights.untyped_storage().resize_(0)
    refused(arguments | {"topk_weights": weights}, ValueError, "topk_weights", "without memory", "has been computed")
    out.assert_untouched()
    del arguments["output"]
    weights.requires_grad_()
    refused(arguments | {"topk_weights": weights}, ValueError, "topk_weights", "without memory", "has been computed")


@pytest.mark.parametrize("argument", ["input", "output", "topk_weights", "topk_ids", "inv_permuted_idx", "num_tokens"])
def test_an_address_between_elements(argument: str) -> None:
    """As torch takes it over from others. On a GPU it would be an error that no later call gets past."""
    arguments, out = good(torch.device("cpu"))
    if argument == "inv_permuted_idx":
        arguments["input"] = arguments["input"].flatten(0, 1)
    shape, dtype = {
        "input": ((TOKENS, TOPK, HIDDEN), torch.bfloat16),
        "output": ((TOKENS, HIDDEN), torch.bfloat16),
        "topk_weights": ((TOKENS, TOPK), torch.float32),
        "topk_ids": ((TOKENS, TOPK), torch.int64),
        "inv_permuted_idx": ((TOKENS, TOPK), torch.int32),
        "num_tokens": ((1,), torch.int32),
    }[argument]
    whole = bytearray(math.prod(shape) * dtype.itemsize + dtype.itemsize)
    for offset in {1, dtype.itemsize // 2}:
        arguments[argument] = torch.frombuffer(whole, dtype=dtype, offset=offset, count=math.prod(shape)).view(shape)
        bytes_of_element = f"a multiple of the {dtype.itemsize} bytes of {str(dtype)[6:]}"
        refused(arguments, ValueError, argument, "at an address between two elements", bytes_of_element)
    out.assert_untouched()
    nothing = torch.frombuffer(whole, dtype=torch.float32, offset=1, count=1)[:0].view(0, 2, 8)
    assert moe_cute.sum_reduce(nothing).shape == (0, 8)


def test_an_error_that_is_no_refusal_stays_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that torch has attached to it."""
    failure = torch.OutOfMemoryError("no memory")

    def fail(*arguments: Any) -> None:
        raise failure

    arguments, _ = good(torch.device("cpu"))
    monkeypatch.setattr(moe_cute._front, "_direct", fail)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        moe_cute.sum_reduce(arguments["input"])
    assert caught.value is failure


def test_a_name_with_a_null_character(device: torch.device) -> None:
    arguments, out = good(device)
    name = f"{moe_cute.explain(arguments['input']).variant}\0x"
    refused(arguments | {"variant": name}, ValueError, "variant", "a name with a null character", "None")
    out.assert_untouched()
    with pytest.raises((RuntimeError, ValueError), match="variant: was a name with a null character"):
        torch.ops.moe_cute.sum_reduce(arguments["input"], variant=name)


@pytest.mark.parametrize("permuted", [False, True], ids=["in-place", "inv_permuted_idx"])
def test_more_slots_than_loops_can_count(permuted: bool) -> None:
    topk = 2**31 - 32
    input = torch.ones(1, 1, 8).expand(1, topk, 8)
    arguments = {"input": input}
    if permuted:
        arguments = {"input": input[0, :1], "inv_permuted_idx": torch.zeros(1, 1, dtype=torch.int32).expand(1, topk)}
    name = "inv_permuted_idx" if permuted else "input"
    refused(arguments, ValueError, name, f"of topk {topk}", "a topk of at most 2147483615")


def test_meta_tensors_beside_others() -> None:
    arguments, _ = good(torch.device("cpu"))
    del arguments["output"]
    weights = torch.ones(TOKENS, TOPK, device="meta")
    with pytest.raises(ValueError, match=r"^topk_weights: was on meta; allowed: the input's device, cpu"):
        torch.ops.moe_cute.sum_reduce(arguments["input"], 1.0, weights)
    output = torch.ones(TOKENS, HIDDEN, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"^topk_weights: was on meta; allowed: the input's device, cpu"):
        torch.ops.moe_cute.sum_reduce_out(arguments["input"], output, 1.0, weights)
    arguments["input"] = arguments["input"].to("meta")
    for name, value in {"topk_weights": weights.new_ones(TOKENS, TOPK, device="cpu"), "output": output}.items():
        refused(arguments | {name: value}, ValueError, name, "on cpu", "the input's device, meta")
