"""The peers' Triton kernels: of each, one Python file, imported without the engine around it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from benchmarks import peers


@functools.cache
def vllm_mul_sum() -> Callable[..., Tensor]:
    """vLLM's `moe_fused_mul_sum`.

    Raises:
        PeerError: the file is not here.
        ImportError: Triton is not installed, or the installed vLLM does not import.
    """
    function: Callable[..., Tensor] = import_file(peers.VLLM_MUL_SUM, vllm_stand_ins()).moe_fused_mul_sum
    return function


@functools.cache
def sglang_sum_reduce() -> Callable[[Tensor, Tensor, float], None]:
    """sglang's `moe_sum_reduce_triton`; raises as `vllm_mul_sum` does."""
    module = import_file(peers.SGLANG_SUM_REDUCE, sglang_stand_ins())
    function: Callable[[Tensor, Tensor, float], None] = module.moe_sum_reduce_triton
    return function


def vllm_stand_ins() -> dict[str, object]:
    """What vLLM's file imports of vLLM: Triton, and the GPU's capability."""
    import triton
    import triton.language

    platform = SimpleNamespace(is_cuda=_answering(True), get_device_capability=torch.cuda.get_device_capability)
    return {
        "vllm.platforms": SimpleNamespace(current_platform=platform),
        "vllm.triton_utils": SimpleNamespace(triton=triton, tl=triton.language),
    }


def sglang_stand_ins() -> dict[str, object]:
    """What sglang's file imports of sglang: sum_reduce asks for PDL alone, the file's other kernels for the rest."""
    no = _answering(False)
    fp8 = ("per_token_group_quant_fp8", "scaled_fp8_quant", "sglang_per_token_group_quant_fp8")
    int8 = ("per_token_group_quant_int8", "per_token_quant_int8", "sglang_per_token_group_quant_int8")
    return {
        # Asked in every call; sglang's own is cached as well.
        "sglang.kernels.jit.utils": SimpleNamespace(is_arch_support_pdl=functools.cache(_has_pdl)),
        "sglang.kernels.ops.quantization.fp8_kernel": SimpleNamespace(**dict.fromkeys(fp8)),
        "sglang.kernels.ops.quantization.int8_kernel": SimpleNamespace(**dict.fromkeys(int8)),
        "sglang.srt.batch_invariant_ops": SimpleNamespace(is_batch_invariant_mode_enabled=no),
        "sglang.srt.environ": SimpleNamespace(envs=SimpleNamespace(SGLANG_USE_AITER=SimpleNamespace(get=no))),
        "sglang.srt.layers.moe.utils": SimpleNamespace(get_moe_padding_size=_answering(0)),
        "sglang.srt.utils": SimpleNamespace(
            is_cuda=_answering(True), is_cpu=no, is_hip=no, cpu_has_amx_support=no, is_sm90_supported=no
        ),
    }


def import_file(peer: peers.PeerFile, stand_ins: Mapping[str, object], cache: Path = peers.CACHE) -> ModuleType:
    """Import a peer's Python file: out of the installed package, or else alone, with `stand_ins` for its own imports.

    Args:
        stand_ins: module name to an object with what the file takes from it; in `sys.modules` only during the import.

    Raises:
        PeerError: it is neither installed nor in the cache.
        ImportError: it imports what is not there.
    """
    if peer.installed():
        return importlib.import_module(peer.member.removesuffix(".py").replace("/", "."))
    alone = peer.cache_name.removesuffix(".py").replace(".", "_")
    spec = importlib.util.spec_from_file_location(alone, peer.find(cache))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    hidden = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules[alone] = module
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(hidden)
    return module


def _has_pdl() -> bool:
    return torch.cuda.get_device_capability() >= (9, 0)


def _answering(answer: object) -> Callable[..., object]:
    """A function that returns `answer`, whatever it is given."""
    return lambda *_: answer
