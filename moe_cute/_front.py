"""`sum_reduce`: the one call, and the choice between its two ways in.

The direct way reads plain tensors from C and launches. The operator `torch.ops.moe_cute` serves whatever needs torch's
dispatcher: autograd, torch.compile, functorch, tensor subclasses and dispatch modes.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._C import (
    _get_tracing_state,
    _increment_version,  # all that torch.autograd.graph.increment_version does, at half its time
    _len_torch_dispatch_stack,
)
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from moe_cute._checking_mode import CHECKING, check_ids_and_rows
from moe_cute._checks import (
    clearer,
    expect_dtype,
    expect_out_dtype,
    expect_ranks,
    of_made_output,
    refusal_of,
    refuse_gradient,
    refuse_unusable,
)
from moe_cute._extension import _C
from moe_cute._operator import OPTIONAL_TENSORS  # and registers what torch.ops.moe_cute needs

_direct = _C.sum_reduce
_ops = torch.ops.moe_cute
Call = TypeVar("Call", bound=Callable[..., Tensor])


def _with_short_way(whole: Call) -> Call:
    """The call that engines repeat, without options, past what the others need.

    Every option that is left out is looked up all the same: 1.28 us in place of 1.43 for a call of no tokens on a CPU,
    into an output; 2.37 in place of 2.53 where it is made.
    """

    @functools.wraps(whole)
    def short(
        input: Tensor, output: Tensor | None = None, routed_scaling_factor: float = 1.0, **options: Any
    ) -> Tensor:
        if options or is_compiling() or not _is_plain(input, output, ()):
            return whole(input, output, routed_scaling_factor, **options)
        try:
            target = _empty_output(input, None, None) if output is None else output
            _direct(input, target, routed_scaling_factor, True)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return whole(input, output, routed_scaling_factor)  # says what was wrong, or answers for a meta tensor
        if output is not None:
            _increment_version((output,))
        return target

    return cast(Call, short)


@_with_short_way
def sum_reduce(
    input: Tensor,
    output: Tensor | None = None,
    routed_scaling_factor: float = 1.0,
    *,
    topk_weights: Tensor | None = None,
    topk_ids: Tensor | None = None,
    expert_map: Tensor | None = None,
    inv_permuted_idx: Tensor | None = None,
    shared_output: Tensor | None = None,
    num_tokens: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    variant: str | None = None,
    pdl: bool = True,
) -> Tensor:
    """Sums each token's top-k expert rows: the last step of a mixture-of-experts layer, in one pass.

    ``output[t] = routed_scaling_factor * sum_k topk_weights[t, k] * input[t, k] + shared_output[t]``, accumulated in
    float32 (float64 for float64) from +0 with k ascending, by ``fma`` where there are weights, and rounded once, to
    nearest even. The bits do not depend on the variant, the batch, the strides or the device.

    Args:
        input: ``[tokens, topk, hidden]``, or ``[rows, hidden]`` with ``inv_permuted_idx``; float16, bfloat16, float32
            or float64, on a CPU or a CUDA device; any strides and any storage offset.
        output: ``[tokens, hidden]``, written and returned; any strides without overlap, of the input's dtype, or
            float32 for 16-bit inputs, or 16-bit for float32. Made where it is None.
        routed_scaling_factor: multiplied once, in the accumulator's precision.
        topk_weights: ``[tokens, topk]``, float32 or the input's dtype.
        topk_ids: ``[tokens, topk]``, int32 or int64: expert of each slot. A slot whose id is negative is skipped: its
            row is not read.
        expert_map: ``[experts]``, int32: local index of each expert; only with ``topk_ids``. A slot whose id maps to a
            negative number, or lies past the map's end, is skipped.
        inv_permuted_idx: ``[tokens, topk]``, int32 or int64: the row of ``input`` that each slot reads. A negative row,
            or one past the last, is skipped.
        shared_output: ``[tokens, hidden]``, of the output's dtype, added after the scale in the same rounding; it may
            be ``output`` itself.
        num_tokens: one int32 on the input's device: rows of the output past it are left as they are, and the launch
            does not grow with their number.
        out_dtype: dtype of an output made here.
        variant: the name of a compiled variant to insist on; ``moe_cute.variants`` lists them.
        pdl: on GPUs of architecture 90 and above, let the launch overlap with the end of the kernel before it
            (programmatic dependent launch). It is correct next to any kernel, and in a CUDA graph overlaps with any;
            False turns it off, for this call.

    Returns:
        ``output``.

    Raises:
        ValueError, TypeError: an argument is refused; the message names it, what it was and what is allowed. Nothing
            has been written.
        NotImplementedError: an argument has a tangent; there is no forward-mode derivative.
        RuntimeError: the launch failed, or this build has nothing for the input's device.

    With ``MOE_CUTE_CHECK=1`` in the environment, ids and rows past their ends are errors too; that check synchronises.
    Compiled code, tensor subclasses, and calls under a dispatch mode or torch.func's transforms go without it.
    """
    fused = not (
        topk_weights is None
        and topk_ids is None
        and expert_map is None
        and inv_permuted_idx is None
        and shared_output is None
        and num_tokens is None
        and variant is None
    )
    extras = (topk_weights, topk_ids, expert_map, inv_permuted_idx, shared_output, num_tokens) if fused else ()
    if CHECKING and not is_compiling():
        check_ids_and_rows(input, topk_ids, expert_map, inv_permuted_idx, num_tokens)
    if is_compiling() or not _is_plain(input, output, extras):
        return _through_dispatcher(input, output, routed_scaling_factor, extras, out_dtype, variant, pdl)
    target = output
    try:
        if target is None:
            target = _empty_output(input, inv_permuted_idx, out_dtype)
        else:
            expect_out_dtype(out_dtype, target)
        if fused:
            _direct(input, target, routed_scaling_factor, pdl, *extras, variant)  # type: ignore[call-arg]
        else:
            _direct(input, target, routed_scaling_factor, pdl)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(input, Tensor) and input.is_meta:  # shapes alone: the fake kernel knows them
            return _through_dispatcher(input, output, routed_scaling_factor, extras, out_dtype, variant, pdl)
        options = (routed_scaling_factor, out_dtype, variant, pdl)
        raise clearer(error, *options, input=input, output=output, **_named(extras)) from None
    if output is not None:
        _increment_version((output,))
    return target


def _is_plain(input: Tensor, output: Tensor | None, extras: tuple[Tensor | None, ...]) -> bool:
    """Whether nothing that torch's dispatcher does is needed for these tensors.

    Every call pays for this: whether gradients are enabled is asked only of the few tensors that require them.
    """
    if (
        type(input) is not Tensor
        or (input.requires_grad and torch.is_grad_enabled())
        or input.is_neg()
        or _len_torch_dispatch_stack()
        or peek_interpreter_stack() is not None
        or _get_tracing_state() is not None
        or forward_ad._current_level >= 0
    ):
        return False
    if output is not None and (type(output) is not Tensor or output.requires_grad or output.is_neg()):
        return False
    for tensor in extras:
        if tensor is None:
            continue
        if type(tensor) is not Tensor or (tensor.requires_grad and torch.is_grad_enabled()) or tensor.is_neg():
            return False
    return True


def _named(extras: tuple[Tensor | None, ...]) -> dict[str, Tensor | None]:
    return dict(zip(OPTIONAL_TENSORS, extras, strict=True)) if extras else {}


def _empty_output(input: Tensor, inv_permuted_idx: Tensor | None, out_dtype: torch.dtype | None) -> Tensor:
    expect_ranks(input, inv_permuted_idx)
    shape = input.shape
    tokens = shape[0] if inv_permuted_idx is None else inv_permuted_idx.shape[0]
    # A tuple in place of two numbers, and a keyword, each cost a quarter of a microsecond.
    if out_dtype is None:
        return input.new_empty(tokens, shape[-1])
    expect_dtype("out_dtype", out_dtype)  # new_empty takes Python's own types too
    return input.new_empty(tokens, shape[-1], dtype=out_dtype)


def _through_dispatcher(
    input: Tensor,
    output: Tensor | None,
    routed_scaling_factor: float,
    extras: tuple[Tensor | None, ...],
    out_dtype: torch.dtype | None,
    variant: str | None,
    pdl: bool,
) -> Tensor:
    if not is_compiling() and isinstance(input, Tensor):
        input = input.resolve_neg()
        extras = tuple(tensor.resolve_neg() if isinstance(tensor, Tensor) else tensor for tensor in extras)
    tensors = _named(extras)
    refuse_unusable(routed_scaling_factor, out_dtype, variant, pdl, input=input, output=output, **tensors)
    keywords = {**tensors, "variant": variant, "pdl": pdl}
    if output is None:
        made: Tensor = _ask_operator(_ops.sum_reduce, input, routed_scaling_factor, out_dtype=out_dtype, **keywords)
        return made
    refuse_gradient(output, input=input, **tensors)
    if not is_compiling() and output.is_neg():  # torch's fallback for it does not know optional tensors
        written = output.resolve_neg()
        _through_dispatcher(input, written, routed_scaling_factor, extras, out_dtype, variant, pdl)
        return output.copy_(written)
    _ask_operator(_ops.sum_reduce_out, input, output, routed_scaling_factor, **keywords)
    return output


def _ask_operator(operator: Any, *arguments: Any, **keywords: Any) -> Any:
    if is_compiling():
        return operator(*arguments, **keywords)
    try:
        return operator(*arguments, **keywords)
    except NotImplementedError:  # is a RuntimeError: a tangent
        raise
    except (ValueError, RuntimeError) as error:
        refusal = refusal_of(error)
        raise (of_made_output(refusal) if "out_dtype" in keywords else refusal) from None
