"""A provider is timed only where it is right: held against float64, its output poisoned with NaN."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.operands import Operands
from benchmarks.providers import Call
from benchmarks.shapes import Case

# Of the sum of magnitudes. One rounding to nearest is off by half an epsilon at most; peers round twice, or accumulate
# in the output's dtype. A row left out, or an element that is another's, is far beyond this.
ALLOWED_EPSILONS = 4.0


def find_error(call: Call, case: Case, operands: Operands, scale: float) -> str | None:
    """Run `call` once on `operands`; None if every element is right, else in words what is wrong."""
    expected, magnitude = reference(operands, case, scale)
    operands.output.fill_(math.nan)
    call(operands)
    actual = operands.output[: case.live_tokens].double()
    unwritten = int((~torch.isfinite(actual)).sum())
    if unwritten:
        return f"wrong: {unwritten} of {actual.numel()} elements unwritten or not finite"
    error = (actual - expected).abs()
    share = torch.where(error == 0, 0.0, error / magnitude)  # an element that is the sum of zeros alone has none
    epsilons = share.max().item() / torch.finfo(case.torch_dtype).eps
    return (
        None if epsilons <= ALLOWED_EPSILONS else f"wrong: off by {epsilons:.1f} epsilons, allowed {ALLOWED_EPSILONS}"
    )


def reference(operands: Operands, case: Case, scale: float) -> tuple[Tensor, Tensor]:
    """The live rows of the result in float64, and the sum of the magnitudes of what each element is added up from."""
    slots = operands.input.double()
    if operands.inv_permuted_idx is not None:
        index = operands.inv_permuted_idx.long()
        slots = slots[index.clamp(min=0)].masked_fill((index < 0).unsqueeze(-1), 0.0)
    slots = slots[: case.live_tokens] * scale
    if operands.topk_weights is not None:
        slots = slots * operands.topk_weights[: case.live_tokens].double().unsqueeze(-1)
    result, magnitude = slots.sum(dim=1), slots.abs().sum(dim=1)
    if operands.shared_output is None:
        return result, magnitude
    shared = operands.shared_output.double()
    return result + shared, magnitude + shared.abs()
