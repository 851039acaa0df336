"""Who is measured on the fused finalize step, next to moe_cute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import peers, triton_peers
from benchmarks.operands import Operands
from benchmarks.providers import Call, MoeCute, Provider
from benchmarks.shapes import Case

VLLM_MUL_SUM = "vllm_mul_sum"
VLLM_UNPERMUTE = "vllm_unpermute"
TRANSFORMERS = "transformers"


class VllmMulSum(Provider):
    """vLLM's Triton kernel `moe_fused_mul_sum`."""

    name = VLLM_MUL_SUM
    scales = False

    def available(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        try:
            triton_peers.vllm_mul_sum()
        except (peers.PeerError, ImportError) as error:
            return str(error)
        return None

    def supports(self, case: Case) -> str | None:
        return None if case.epilogue in ("weighted", "live_64") else "weighted sum only"

    def prepare(self, case: Case, operands: Sequence[Operands], scale: float) -> Call:
        mul_sum = triton_peers.vllm_mul_sum()
        return lambda each: mul_sum(each.input, each.topk_weights, each.output, num_valid_tokens=each.num_tokens)


class VllmUnpermute(Provider):
    """vLLM's `moe_unpermute`."""

    name = VLLM_UNPERMUTE
    scales = False

    def available(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        try:
            peers.load_library(peers.VLLM_MOE)
        except (peers.PeerError, OSError) as error:
            return str(error).splitlines()[0]
        return None

    def supports(self, case: Case) -> str | None:
        return None if case.epilogue == "unpermute_weighted" else "unpermute and weighted sum only"

    def prepare(self, case: Case, operands: Sequence[Operands], scale: float) -> Call:
        # Its indices are flat, as vLLM's own moe_permute returns them.
        indices = {id(each): _required(each.inv_permuted_idx).flatten() for each in operands}
        return lambda each: torch.ops._moe_C.moe_unpermute(
            each.input, each.topk_weights, indices[id(each)], None, case.topk, each.output
        )


class Transformers(Provider):
    """The passes that transformers' grouped-mm experts make after the last GEMM: weight, index, sum. Until 5.17, and
    under expert parallelism, a mask comes first."""

    name = TRANSFORMERS
    scales = False

    def supports(self, case: Case) -> str | None:
        return None if case.epilogue == "unpermute_weighted" else "unpermute and weighted sum only"

    def prepare(self, case: Case, operands: Sequence[Operands], scale: float) -> Call:
        indices = {id(each): _required(each.inv_permuted_idx).flatten().long() for each in operands}

        def passes(each: Operands) -> None:
            weighted = each.input * _required(each.sorted_weights).unsqueeze(-1)
            slots = weighted[indices[id(each)]].view(case.tokens, case.topk, case.hidden)
            each.output.copy_(slots.sum(dim=1))

        return passes


FUSED: tuple[Provider, ...] = (MoeCute(), VllmMulSum(), VllmUnpermute(), Transformers())


def _required(operand: Tensor | None) -> Tensor:
    assert operand is not None
    return operand
