"""A wrong call is refused before anything is written: the argument's name, what it was, and what is allowed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import moe_cute
from tests.memory import Canvas, canvas

TOKENS, TOPK, HIDDEN = 3, 2, 8

Arguments = dict[str, Any]


def good(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[Arguments, Canvas]:
    out = canvas((TOKENS, HIDDEN), dtype, device)
    input = torch.zeros(TOKENS, TOPK, HIDDEN, dtype=dtype, device=device)
    return {"input": input, "output": out.view, "routed_scaling_factor": 2.0}, out


def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Callable[[torch.device], Tensor]:
    return lambda device: torch.zeros(shape, dtype=dtype, device=device)


def ids(*shape: int, dtype: torch.dtype = torch.int32) -> Callable[[torch.device], Tensor]:
    return zeros(*shape, dtype=dtype)


INPUT_KINDS = "float16, bfloat16, float32 or float64"

# argument, what it is (a value, or a function of the device that makes it), the refusal: "was" and "allowed".
WRONG: list[tuple[str, Any, type[Exception], str, str]] = [
    # Ranks and sizes
    ("input", zeros(TOKENS, HIDDEN), ValueError, r"of shape \[3, 8\]", r"shape \[tokens, topk, hidden\]"),
    ("input", zeros(8), ValueError, r"of shape \[8\]", r"shape \[tokens, topk, hidden\]"),
    ("input", zeros(), ValueError, r"of shape \[\]", r"shape \[tokens, topk, hidden\]"),
    ("input", zeros(1, 3, 2, 8), ValueError, r"a tensor of rank 4", r"shape \[tokens, topk, hidden\]"),
    ("output", zeros(3, 1, 8), ValueError, r"of shape \[3, 1, 8\]", r"shape \[tokens, hidden\]"),
    ("output", zeros(8), ValueError, r"of shape \[8\]", r"shape \[tokens, hidden\]"),
    ("output", zeros(4, 8), ValueError, r"of shape \[4, 8\]", r"\[tokens, hidden\] = \[3, 8\]"),
    ("output", zeros(3, 7), ValueError, r"of shape \[3, 7\]", r"\[tokens, hidden\] = \[3, 8\]"),
    ("output", zeros(3, 0), ValueError, r"of shape \[3, 0\]", r"\[tokens, hidden\] = \[3, 8\]"),
    # Dtypes
    *(
        ("input", zeros(TOKENS, TOPK, HIDDEN, dtype=dtype), TypeError, f"of dtype {str(dtype)[6:]}", INPUT_KINDS)
        for dtype in (
            torch.int8,
            torch.uint8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.bool,
            torch.complex64,
            torch.complex128,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
        )
    ),
    ("output", zeros(3, 8, dtype=torch.float16), TypeError, "of dtype float16", "bfloat16 as the input, or float32"),
    ("output", zeros(3, 8, dtype=torch.float64), TypeError, "of dtype float64", "bfloat16 as the input, or float32"),
    ("output", zeros(3, 8, dtype=torch.int64), TypeError, "of dtype int64", "bfloat16 as the input, or float32"),
    ("output", zeros(3, 8, dtype=torch.bool), TypeError, "of dtype bool", "bfloat16 as the input, or float32"),
    (
        "output",
        zeros(3, 8, dtype=torch.complex64),
        TypeError,
        "of dtype complex64",
        "bfloat16 as the input, or float32",
    ),
    ("out_dtype", torch.float32, TypeError, "torch.float32", "the output's torch.bfloat16, or None"),
    # What is no tensor, or no dense one
    ("input", [[[1.0]]], TypeError, "of type list", "a torch.Tensor"),
    ("input", None, TypeError, "", "a torch.Tensor"),
    ("input", torch.zeros(3, 2, 8).numpy(), TypeError, "of type ndarray", "a torch.Tensor"),
    ("output", [[0.0] * 8] * 3, TypeError, "of type list", "a torch.Tensor"),
    ("output", torch.zeros(3, 8).numpy(), TypeError, "of type ndarray", "a torch.Tensor"),
    ("input", lambda device: torch.zeros(3, 2, 8, device=device).to_sparse(), TypeError, "sparse", "dense"),
    ("output", lambda device: torch.zeros(3, 8, device=device).to_sparse(), TypeError, "sparse", "dense"),
    ("output", lambda device: torch.zeros(3, 8, device=device).to_sparse_csr(), TypeError, "sparse", "dense"),
    # The scale
    ("routed_scaling_factor", "2", TypeError, "of type str", "a float or an int"),
    ("routed_scaling_factor", None, TypeError, "of type NoneType", "a float or an int"),
    ("routed_scaling_factor", True, TypeError, "of type bool", "a float or an int"),
    ("routed_scaling_factor", 1j, TypeError, "of type complex", "a float or an int"),
    ("routed_scaling_factor", [2.0], TypeError, "of type list", "a float or an int"),
    (
        "routed_scaling_factor",
        lambda device: torch.tensor(2.0, device=device),
        TypeError,
        "of type Tensor",
        "a float or an int",
    ),
    ("routed_scaling_factor", float("nan"), ValueError, "nan", "a number"),
    # topk_weights
    (
        "topk_weights",
        zeros(3, 3, dtype=torch.float32),
        ValueError,
        r"of shape \[3, 3\]",
        r"\[tokens, topk\] = \[3, 2\]",
    ),
    (
        "topk_weights",
        zeros(3, 2, 1, dtype=torch.float32),
        ValueError,
        r"of shape \[3, 2, 1\]",
        r"shape \[tokens, topk\]",
    ),
    (
        "topk_weights",
        zeros(3, 2, dtype=torch.float16),
        TypeError,
        "of dtype float16",
        "float32 or the input's bfloat16",
    ),
    (
        "topk_weights",
        zeros(3, 2, dtype=torch.float64),
        TypeError,
        "of dtype float64",
        "float32 or the input's bfloat16",
    ),
    ("topk_weights", zeros(3, 2, dtype=torch.int32), TypeError, "of dtype int32", "float32 or the input's bfloat16"),
    ("topk_weights", [[1.0, 1.0]] * 3, TypeError, "of type list", "a torch.Tensor"),
    # topk_ids
    ("topk_ids", ids(2, 3), ValueError, r"of shape \[2, 3\]", r"\[tokens, topk\] = \[3, 2\]"),
    ("topk_ids", ids(6), ValueError, r"of shape \[6\]", r"shape \[tokens, topk\]"),
    ("topk_ids", ids(3, 2, dtype=torch.int16), TypeError, "of dtype int16", "int32 or int64"),
    ("topk_ids", ids(3, 2, dtype=torch.uint8), TypeError, "of dtype uint8", "int32 or int64"),
    ("topk_ids", ids(3, 2, dtype=torch.float32), TypeError, "of dtype float32", "int32 or int64"),
    ("topk_ids", [[0, 1]] * 3, TypeError, "of type list", "a torch.Tensor"),
    # expert_map
    ("expert_map", ids(4), ValueError, "given without topk_ids", "both, or topk_ids alone"),
    # shared_output
    ("shared_output", zeros(3, 7), ValueError, r"of shape \[3, 7\]", r"\[tokens, hidden\] = \[3, 8\]"),
    ("shared_output", zeros(8), ValueError, r"of shape \[8\]", r"shape \[tokens, hidden\]"),
    ("shared_output", zeros(3, 8, dtype=torch.float32), TypeError, "of dtype float32", "the output's bfloat16"),
    ("shared_output", 1.0, TypeError, "of type float", "a torch.Tensor"),
    # num_tokens
    ("num_tokens", 2, TypeError, "of type int", "a torch.Tensor"),
    ("num_tokens", ids(2), ValueError, r"of shape \[2\]", "one element"),
    ("num_tokens", ids(0), ValueError, r"of shape \[0\]", "one element"),
    ("num_tokens", ids(1, dtype=torch.int64), TypeError, "of dtype int64", "int32"),
    ("num_tokens", zeros(1, dtype=torch.float32), TypeError, "of dtype float32", "int32"),
    # variant
    ("variant", "", ValueError, "", "one that moe_cute.explain does not refuse, or None"),
    ("variant", 8, TypeError, "of type int", "str"),
    # Other devices
    (
        "output",
        torch.zeros(3, 8, dtype=torch.bfloat16, device="meta"),
        ValueError,
        "on another device",
        "the input's device",
    ),
    ("topk_weights", torch.zeros(3, 2, device="meta"), ValueError, "on another device", "the input's device"),
]


def named(case: tuple[str, Any, type[Exception], str, str]) -> str:
    argument, _, _, was, _ = case
    return f"{argument}-{was.replace(chr(92), '')}"


def refused(arguments: Arguments, error: type[Exception], argument: str, was: str, allowed: str) -> None:
    with pytest.raises(error, match=rf"^{argument}: was .*{was}.*; allowed: .*{allowed}") as caught:
        moe_cute.sum_reduce(**arguments)
    assert type(caught.value) is error


@pytest.mark.parametrize("case", WRONG, ids=named)
def test_one_wrong_argument(device: torch.device, case: tuple[str, Any, type[Exception], str, str]) -> None:
    argument, value, error, was, allowed = case
    arguments, out = good(device)
    arguments[argument] = value(device) if callable(value) else value
    refused(arguments, error, argument, was, allowed)
    out.assert_untouched()


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
    index = ids(TOKENS, TOPK)(device)
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
    arguments["topk_ids"] = ids(TOKENS, TOPK)(device)
    refused(
        arguments | {"expert_map": ids(2, 2)(device)},
        ValueError,
        "expert_map",
        r"of shape \[2, 2\]",
        r"shape \[experts\]",
    )
    refused(
        arguments | {"expert_map": ids(4, dtype=torch.int64)(device)},
        TypeError,
        "expert_map",
        "of dtype int64",
        "int32",
    )
    refused(arguments | {"expert_map": {0: 1}}, TypeError, "expert_map", "of type dict", "a torch.Tensor")
    out.assert_untouched()


@pytest.mark.filterwarnings("ignore:.*quantized")
def test_quantized() -> None:
    arguments, out = good(torch.device("cpu"))
    quantized = torch.quantize_per_tensor(torch.zeros(TOKENS, TOPK, HIDDEN), 0.1, 0, torch.qint8)
    refused(arguments | {"input": quantized}, TypeError, "input", "quantized", INPUT_KINDS)
    out.assert_untouched()
    refused(arguments | {"output": quantized[:, 0]}, TypeError, "output", "quantized", "")


# Memory


def test_output_that_overlaps_itself(device: torch.device) -> None:
    arguments, _ = good(device)
    for shape, strides in [
        ((3, 8), (0, 1)),  # expanded tokens
        ((3, 8), (8, 0)),  # expanded hidden
        ((3, 8), (7, 1)),  # the last of a row is the first of the next
        ((3, 8), (1, 1)),  # windows
        ((3, 8), (2, 1)),
        ((3, 8), (6, 4)),  # 2 x 6 = 3 x 4
    ]:
        wrong = canvas(shape, torch.bfloat16, device, strides)
        refused(arguments | {"output": wrong.view}, ValueError, "output", "share memory", "one place")
        wrong.assert_untouched()


@pytest.mark.parametrize("strides", [(8, 1), (1, 3), (9, 1), (5, 3), (1, 4), (16, 2), (3, 5)], ids=str)
def test_output_that_does_not_overlap_itself(device: torch.device, strides: tuple[int, int]) -> None:
    """Legal strides, some with rows that interleave, are not refused."""
    arguments, _ = good(device)
    places = {i * strides[0] + j * strides[1] for i in range(TOKENS) for j in range(HIDDEN)}
    assert len(places) == TOKENS * HIDDEN
    out = canvas((TOKENS, HIDDEN), torch.bfloat16, device, strides)
    moe_cute.sum_reduce(arguments["input"], out.view)
    out.assert_written_inside_only()


def test_output_that_overlaps_the_input(device: torch.device) -> None:
    buffer = torch.zeros(100, dtype=torch.bfloat16, device=device)
    input = buffer[20:68].view(TOKENS, TOPK, HIDDEN)
    for start in (0, 19, 20, 44, 67):  # the ends of both, and between
        output = buffer[start : start + 24].view(TOKENS, HIDDEN)
        buffer.fill_(1.0)
        overlaps = start < 68 and start + 24 > 20
        if overlaps:
            refused(
                {"input": input, "output": output},
                ValueError,
                "output",
                "memory that the input also uses",
                "memory of its own",
            )
        else:
            moe_cute.sum_reduce(input, output)
        assert bool((buffer[20:68] == 1.0).all()), "the input has changed"
    for output in (input[:, 0], input[:, 1], input.as_strided((TOKENS, HIDDEN), (16, 1), input.storage_offset() + 5)):
        refused(
            {"input": input, "output": output},
            ValueError,
            "output",
            "memory that the input also uses",
            "memory of its own",
        )
    assert bool((buffer == buffer[20]).all())


def test_output_beside_the_input(device: torch.device, rng: torch.Generator) -> None:
    """Next to it, and between its rows as a column slice of the same buffer, there is no overlap."""
    buffer = torch.zeros(TOKENS, 40, dtype=torch.bfloat16, device=device)
    values = torch.randn(TOKENS, TOPK, HIDDEN, generator=rng).bfloat16()
    input = buffer[:, :16].unflatten(1, (TOPK, HIDDEN)).copy_(values)
    for output in (buffer[:, 16:24], buffer[:, 32:40]):
        moe_cute.sum_reduce(input, output)
        assert torch.equal(output.cpu(), values.float().sum(1).bfloat16())
    assert torch.equal(input.cpu(), values)
    shifted = buffer[:, 15:23]  # one column is the input's
    refused(
        {"input": input, "output": shifted},
        ValueError,
        "output",
        "memory that the input also uses",
        "memory of its own",
    )
    flat = torch.zeros(TOKENS * TOPK * HIDDEN + TOKENS * HIDDEN, dtype=torch.bfloat16, device=device)
    ends_meet = (
        flat[: TOKENS * TOPK * HIDDEN].view(TOKENS, TOPK, HIDDEN),
        flat[TOKENS * TOPK * HIDDEN :].view(TOKENS, HIDDEN),
    )
    moe_cute.sum_reduce(*ends_meet)


def test_shared_output_in_part_of_the_output(device: torch.device) -> None:
    buffer = torch.ones(64, dtype=torch.bfloat16, device=device)
    arguments, _ = good(device)
    arguments["output"] = buffer[:24].view(TOKENS, HIDDEN)
    arguments["shared_output"] = buffer[8:32].view(TOKENS, HIDDEN)
    refused(
        arguments, ValueError, "shared_output", "part of the output's memory", "the output itself, or memory of its own"
    )
    arguments["shared_output"] = buffer[:24].as_strided((TOKENS, HIDDEN), (1, 3))  # the same place, in another order
    refused(
        arguments, ValueError, "shared_output", "part of the output's memory", "the output itself, or memory of its own"
    )
    assert bool((buffer == 1).all())


# Autograd


def test_output_that_requires_grad(device: torch.device) -> None:
    arguments, _ = good(device, torch.float32)
    output = torch.zeros(TOKENS, HIDDEN, device=device, requires_grad=True)
    with torch.no_grad():
        refused(arguments | {"output": output}, ValueError, "output", "requires grad", "")
    refused(arguments | {"output": output}, ValueError, "output", "requires grad", "")


def test_output_while_the_input_requires_grad(device: torch.device) -> None:
    arguments, out = good(device, torch.float32)
    arguments["input"].requires_grad_()
    refused(arguments, ValueError, "output", "given while input requires grad", "None, so that autograd follows")
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
        "topk_ids": ids(TOKENS, TOPK)(torch.device(home)),
        "expert_map": ids(4)(torch.device(home)),
        "shared_output": torch.zeros(TOKENS, HIDDEN, dtype=torch.bfloat16, device=home),
        "num_tokens": ids(1)(torch.device(home)),
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
