"""Gives an operator its gradient, and refuses it tangents.

In place of ``torch.library.register_autograd``, whose gradients do not work under torch.func's transforms, and which
drops tangents.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction


def register_gradient(
    library: torch.library.Library, operator: Any, save: Callable[..., None], backward: Callable[..., Any]
) -> None:
    """``save`` gets the context and the operator's positional arguments, without those at the end that have their
    defaults; ``backward`` is that of a ``torch.autograd.Function``."""

    def forward(ctx: Any, call: Callable[..., Tensor], *arguments: Any) -> Tensor:
        save(ctx, *arguments)
        # Off in here, but functorch may have levels below this one.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return call(*arguments)

    members = {
        "forward": staticmethod(forward),
        "backward": staticmethod(lambda ctx, grad: (None, *backward(ctx, grad))),
        "_compiled_autograd_key": staticmethod(torch.autograd.Function._compiled_autograd_key),
    }
    # Not of Function, which sees to all of functorch's levels at once: to this kernel they come one by one.
    function: Any = type(f"GradientOf{operator._opname}", (_SingleLevelFunction,), members)

    def autograd(keyset: Any, *arguments: Any, **keywords: Any) -> Tensor:
        def call(*arguments: Any) -> Tensor:
            with torch._C._AutoDispatchBelowAutograd():
                below: Tensor = operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments, **keywords)
                return below

        arguments = unwrap_dead_wrappers(arguments)
        refuse_tangents(operator, *arguments)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            with enable_single_level_autograd_function():
                result: Tensor = function.apply(call, *arguments)
                return result
        return call(*arguments)

    library.impl(operator, autograd, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]


def refuse_tangents(operator: Any, *arguments: Any) -> None:
    """Raises NotImplementedError where a positional argument has a tangent, which torch would drop without a word, or
    leave beside what is written."""
    if forward_ad._current_level < 0:
        return
    for argument, value in zip(operator._schema.arguments, arguments, strict=False):
        if isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None:  # type: ignore[no-untyped-call]
            raise NotImplementedError(
                f"{argument.name}: was a tensor with a tangent; allowed: one without, since sum_reduce has no "
                "forward-mode derivative. It has a reverse-mode one"
            )
