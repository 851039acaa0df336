from collections.abc import Sequence
from typing import Any

from torch import Tensor

# (shape, strides, dtype name, device type, device index, address)
Description = tuple[tuple[int, ...], tuple[int, ...], str, str, int, int]

def sum_reduce(
    input: Tensor,
    output: Tensor,
    routed_scaling_factor: float,
    pdl: bool,
    topk_weights: Tensor | None = ...,
    topk_ids: Tensor | None = ...,
    expert_map: Tensor | None = ...,
    inv_permuted_idx: Tensor | None = ...,
    shared_output: Tensor | None = ...,
    num_tokens: Tensor | None = ...,
    variant: str | None = ...,
    threads: int = ...,
    prefetch_kib: int = ...,
    /,
) -> None: ...
def check(*arguments: Description | float | None) -> None: ...
def explain(
    *arguments: Description | float | int | str | None,
) -> tuple[str | None, int, int, bool, list[tuple[str, str]]]: ...
def variants() -> Sequence[dict[str, Any]]: ...
def build_info() -> dict[str, str]: ...
