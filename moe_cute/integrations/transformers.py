"""A mixture-of-experts implementation for Hugging Face transformers that ends in one pass.

    from moe_cute.integrations.transformers import register

    model = AutoModelForCausalLM.from_pretrained(name, experts_implementation=register())

Importing this module raises ImportError where transformers is missing, or is a version that it was not written for.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from moe_cute._front import sum_reduce

try:
    from transformers import __version__ as _found
except ModuleNotFoundError as error:
    raise ImportError("transformers: was not installed; allowed: 5.17 or a later 5.x") from error
if not (5, 17) <= tuple(int(part) for part in _found.split(".")[:2]) < (6, 0):
    raise ImportError(f"transformers: was {_found}; allowed: 5.17 or a later 5.x")

from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear, use_experts_implementation

NAME = "moe_cute"

# What a model may say of its experts. 5.17 has all but the last; what a later version adds is refused where it is used.
_KNOWN_KINDS = {"is_concatenated", "is_transposed", "has_bias", "has_gate", "has_post_expert_norm"}
_UNKNOWN_KINDS = tuple(
    name
    for name in inspect.signature(use_experts_implementation).parameters
    if name not in _KNOWN_KINDS | {"experts_class", "experts_interface"}
)


def register() -> str:
    """Adds ``"moe_cute"`` to ``ALL_EXPERTS_FUNCTIONS`` and returns that name; doing it again changes nothing."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    return NAME


def experts_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What ``"grouped_mm"`` computes, by the same grouped GEMMs; behind the last of them, one ``sum_reduce``.

    Args:
        self: an experts module under ``transformers.integrations.moe.use_experts_implementation``: gated or not, with
            biases or not, weights transposed or not, with a norm behind each expert or not.
        hidden_states: ``[tokens, hidden]``, float16, bfloat16 or float32.
        top_k_index: ``[tokens, topk]``, int64, from 0. An id of ``self.num_experts`` or more, with which expert
            parallelism marks an expert of another rank, skips its slot. From transformers 5.18 on, such ids need an
            experts module that says so, as its expert parallelism does (``self._is_expert_parallel``).
        top_k_weights: ``[tokens, topk]``, of any floating dtype.

    Returns:
        ``[tokens, hidden]``, of the dtype of ``hidden_states``.

    Raises:
        NotImplementedError: the experts are of a kind that transformers has since this was written.
    """
    for kind in _UNKNOWN_KINDS:
        if getattr(self, kind, False):
            raise NotImplementedError(f"self: was experts with {kind}; allowed: those of transformers 5.17 to 5.24")
    tokens, topk = top_k_index.shape
    may_skip = getattr(self, "_is_expert_parallel", True)  # said from 5.18 on
    ids = top_k_index.reshape(-1)
    if may_skip:  # any id from there on
        ids = ids.clamp(max=self.num_experts)
    expert_ids, slots = torch.sort(ids.to(_sort_key_dtype(self.num_experts)))
    experts = torch.arange(self.num_experts, dtype=expert_ids.dtype, device=expert_ids.device)
    group_ends = torch.searchsorted(expert_ids, experts, right=True, out_int32=True)
    is_skipped = expert_ids >= self.num_experts
    has_garbage = may_skip and torch.is_grad_enabled()

    def without_garbage(rows: Tensor) -> Tensor:
        """``rows`` (changed in place), with zeros for what a grouped GEMM, or its gradient, leaves in skipped rows."""
        return rows.masked_fill_(is_skipped.unsqueeze(-1), 0.0) if has_garbage else rows

    def linear(rows: Tensor, name: str) -> Tensor:
        bias = None
        if self.has_bias:
            bias = without_garbage(getattr(self, f"{name}_bias")[expert_ids.clamp(max=self.num_experts - 1).int()])
        weight = getattr(self, name)
        result: Tensor = _grouped_linear(rows, weight, group_ends, bias=bias, is_transposed=self.is_transposed)
        return result

    # A GEMM neither reads nor writes rows past its last group: what skipped rows hold from here on reaches no output.
    rows = without_garbage(hidden_states[slots // topk])
    rows = linear(rows, "gate_up_proj" if self.has_gate else "up_proj")
    rows = self._apply_gate(rows) if self.has_gate else self.act_fn(rows)
    rows = linear(rows, "down_proj")
    if getattr(self, "has_post_expert_norm", False):
        rows = self.post_expert_norm(without_garbage(rows))

    row_of_slot = torch.where(is_skipped, -1, torch.arange(slots.numel(), dtype=torch.int32, device=slots.device))
    row_of_slot = torch.empty_like(row_of_slot).scatter_(0, slots, row_of_slot)
    result = sum_reduce(
        rows,
        topk_weights=top_k_weights if top_k_weights.dtype == rows.dtype else top_k_weights.float(),
        inv_permuted_idx=row_of_slot.view(tokens, topk),
        out_dtype=rows.dtype if hidden_states.dtype == rows.dtype else torch.float32,
    )
    return result.to(hidden_states.dtype)


def _sort_key_dtype(experts: int) -> torch.dtype:
    """The narrowest that holds `experts` itself too, the id of a skipped slot.

    A GPU sorts by radix, one pass for each byte of the keys: 8 bytes take an H200's block of Qwen3-30B-A3B 60 us longer
    than 1 at 1024 tokens (599 us and 539), 32 at 8192 (1778 and 1746).
    """
    return next((dtype for dtype in (torch.uint8, torch.int16) if experts <= torch.iinfo(dtype).max), torch.int64)
