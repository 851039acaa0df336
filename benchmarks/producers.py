"""The kernels that write a call's input just before it, in the chain measures."""

from __future__ import annotations

import torch

from benchmarks.operands import Operands


def produce(source: Operands, target: Operands) -> None:
    """Rewrites the input of `target` with an ordinary kernel, which knows nothing of programmatic dependent launch."""
    # An elementwise kernel: copy_ would become a memory-copy node, which is no kernel to launch behind.
    torch.neg(source.input, out=target.input)


def produce_and_trigger(source: Operands, target: Operands) -> None:
    """Likewise, with a kernel that lets the next one start early."""
    from benchmarks import triton_kernel

    triton_kernel.negate(source.input, target.input)


PRODUCERS = {"ordinary": produce, "trigger": produce_and_trigger}  # by what a ladder's launches are `behind`
