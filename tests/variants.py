"""The variants of generated/manifest.json, as the tests' ids and parameters."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import moe_cute
from moe_cute._extension import _C

MANIFEST = Path(__file__).parent.parent / "generated" / "manifest.json"
EPILOGUES = ("plain", "weighted", "permuted", "routed")  # each does all that the ones before it do
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")  # likewise


@dataclass(frozen=True)
class Variant:
    """`hidden` and `topk` are None where the variant takes any."""

    name: str
    backend: str
    dtype: torch.dtype
    hidden: int | None
    topk: int | None
    vector_width: int
    instruction_set: str | None
    epilogue: str
    unaligned: bool  # its vectors may start at any element

    @property
    def shifts(self) -> bool:
        """Whether its vectors are shifted out of aligned words, not loaded element by element."""
        is_wide = self.dtype.itemsize == 2 and self.vector_width >= 4
        return self.unaligned and is_wide and self.epilogue != "permuted"

    def why_not_here(self) -> str | None:
        """None where this machine and build can run it; whether there is a GPU is the `gpu` marker's to say."""
        if self.instruction_set is not None and not host_has(self.instruction_set):
            return f"this processor has no {self.instruction_set}"
        return None


def host_has(instruction_set: str) -> bool:
    best = _C.build_info()["instruction_set"]
    return INSTRUCTION_SETS.index(instruction_set) <= INSTRUCTION_SETS.index(best)


def manifest() -> dict[str, Any]:
    return dict(json.loads(MANIFEST.read_text()))


def listed_topks() -> set[int]:
    """Those that have kernels of their own."""
    return {row["topk"] for row in manifest()["variants"] if row["topk"]}


def looped_topks(low: int, high: int) -> list[int]:
    """Those that have not, from `low` to `high` exclusive: another spec lists others."""
    return [topk for topk in range(low, high) if topk not in listed_topks()]


def lacks_widths(dtype: torch.dtype) -> bool:
    """Whether the spec leaves out vectors of up to 16 bytes, of which the rules would take the best."""
    widths = {variant.vector_width for variant in VARIANTS if (variant.backend, variant.dtype) == ("cuda", dtype)}
    return not widths >= {width for width in (1, 2, 4, 8) if width * dtype.itemsize <= 16}


def _read() -> tuple[Variant, ...]:
    fields = Variant.__dataclass_fields__
    rows = [{key: row[key] for key in fields} for row in manifest()["variants"]]
    return tuple(Variant(**{**row, "dtype": getattr(torch, row["dtype"])}) for row in rows)


VARIANTS = _read()


def variants_where(condition: Callable[[Variant], bool] = lambda variant: True) -> list[Any]:
    """pytest parameters, each named after its variant, skipped where it cannot run."""
    params = []
    for variant in filter(condition, VARIANTS):
        marks = [pytest.mark.gpu] if variant.backend == "cuda" else []
        reason = variant.why_not_here()
        if reason is not None:
            marks.append(pytest.mark.skip(reason=reason))
        params.append(pytest.param(variant, id=variant.name, marks=marks))
    return params


@cache
def built_names() -> frozenset[str]:
    return frozenset(row["name"] for row in moe_cute.variants() if row["built"])
