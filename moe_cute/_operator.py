"""What torch needs to know about ``torch.ops.moe_cute``, whose schemas and kernels are in csrc/operator.cpp: the shapes
of their results, and their gradients."""

from typing import Any

import torch
from torch import Tensor

from moe_cute import _backward, _extension  # noqa: F401  (loading the extension defines the operators)
from moe_cute._autograd import refuse_tangents, register_gradient
from moe_cute._checks import expect_ranks, of_made_output, refuse_gradient, refuse_mixed_devices
from moe_cute._description import check_described

_ops = torch.ops.moe_cute

# In the order of every argument list.
OPTIONAL_TENSORS = ("topk_weights", "topk_ids", "expert_map", "inv_permuted_idx", "shared_output", "num_tokens")


@torch.library.register_fake("moe_cute::sum_reduce")  # type: ignore[untyped-decorator]
def _(
    input: Tensor,
    routed_scaling_factor: float = 1.0,
    topk_weights: Tensor | None = None,
    topk_ids: Tensor | None = None,
    expert_map: Tensor | None = None,
    inv_permuted_idx: Tensor | None = None,
    shared_output: Tensor | None = None,
    num_tokens: Tensor | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    variant: str | None = None,
    pdl: bool = True,
) -> Tensor:
    expect_ranks(input, inv_permuted_idx)
    others = (topk_weights, topk_ids, expert_map, inv_permuted_idx, shared_output, num_tokens)
    refuse_mixed_devices(input, **dict(zip(OPTIONAL_TENSORS, others, strict=True)))
    tokens = (input if inv_permuted_idx is None else inv_permuted_idx).shape[0]
    output = input.new_empty((tokens, input.shape[-1]), dtype=out_dtype)
    try:
        check_described(input, output, routed_scaling_factor, *others)
    except TypeError as error:
        raise of_made_output(error) from None
    return output


@torch.library.register_fake("moe_cute::sum_reduce_out")  # type: ignore[untyped-decorator]
def _(input: Tensor, output: Tensor, scale: float = 1.0, *others: Any, **others_by_name: Any) -> None:
    tensors = _tensors(others, others_by_name)
    refuse_mixed_devices(input, output=output, **tensors)
    check_described(input, output, scale, *(tensors.get(name) for name in OPTIONAL_TENSORS))


def _tensors(others: tuple[Any, ...], by_name: dict[str, Any]) -> dict[str, Tensor]:
    """Those that follow the scale in the schema of ``sum_reduce_out``, by name."""
    every = dict(zip(OPTIONAL_TENSORS, others, strict=False)) | by_name
    return {name: tensor for name, tensor in every.items() if isinstance(tensor, Tensor)}


def _refuse_gradient(
    keyset: Any, input: Tensor, output: Tensor, scale: float = 1.0, *others: Any, **others_by_name: Any
) -> None:
    """Autograd cannot follow a write into memory that is given, and a tangent of what was there would stay."""
    refuse_tangents(_ops.sum_reduce_out.default, input, output, scale, *others)
    refuse_gradient(output, input=input, **_tensors(others, others_by_name))
    keyset &= torch._C._after_autograd_keyset
    with torch._C._AutoDispatchBelowAutograd():
        _ops.sum_reduce_out.default.redispatch(keyset, input, output, scale, *others, **others_by_name)


def _count_write(keyset: Any, input: Tensor, output: Tensor, *others: Any, **others_by_name: Any) -> None:
    """Autograd learns that what it may have saved of the output is there no more, as of torch's own operators."""
    torch.autograd.graph.increment_version(output)
    keyset &= torch._C._after_ADInplaceOrView_keyset
    with torch._C._AutoDispatchBelowADInplaceOrView():
        _ops.sum_reduce_out.default.redispatch(keyset, input, output, *others, **others_by_name)


# An implementation lives as long as its library.
_library = torch.library.Library("moe_cute", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.impl("sum_reduce_out", _refuse_gradient, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]
_library.impl("sum_reduce_out", _count_write, "ADInplaceOrView", with_keyset=True)  # type: ignore[no-untyped-call]


@torch.library.register_fake("moe_cute::slot_dot")  # type: ignore[untyped-decorator]
def _(grad: Tensor, input: Tensor, row_of_slot: Tensor, scale: float) -> Tensor:
    dtype = torch.float64 if input.dtype is torch.float64 else torch.float32
    return input.new_empty(row_of_slot.shape, dtype=dtype)


@torch.library.register_fake("moe_cute::row_sum")  # type: ignore[untyped-decorator]
def _(
    grad: Tensor,
    row_of_slot: Tensor,
    slot_order: Tensor,
    first_slot: Tensor,
    scale: float,
    topk_weights: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    return grad.new_empty((first_slot.shape[0] - 1, grad.shape[1]), dtype=out_dtype)


register_gradient(_library, _ops.sum_reduce.default, _backward.save_for_sum_reduce, _backward.sum_reduce_backward)
register_gradient(_library, _ops.slot_dot.default, _backward.save_for_slot_dot, _backward.slot_dot_backward)
register_gradient(_library, _ops.row_sum.default, _backward.save_for_row_sum, _backward.row_sum_backward)
