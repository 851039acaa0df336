"""Variants and launch rules to the text of generated/: the one Jinja environment, and how C++ spells each value."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from generator import gradient
from generator.notice import NOTICE, seal
from generator.spec import Spec
from generator.tuning import LaunchRule
from generator.variant import Variant
from generator.vocabulary import DTYPES, EPILOGUES, INSTRUCTION_SETS

TABLE = "variants.cpp"
MANIFEST = "manifest.json"
GRADIENTS = ("gradients_cuda.cu", "gradients_cpu.cpp")


def file_names(variants: list[Variant]) -> list[str]:
    return [*sorted({variant.file for variant in variants}), *GRADIENTS, TABLE, MANIFEST]


def render(name: str, spec: Spec, variants: list[Variant], rules: list[LaunchRule]) -> str:
    """The text of one generated file, sealed with its hash."""
    own = f"{name}.j2" if name in (TABLE, MANIFEST, *GRADIENTS) else f"sum_reduce{Path(name).suffix}.j2"
    gradients = gradient.kernels(spec)
    kernels: list[Variant | gradient.GradientKernel] = [*variants, *gradients]
    text = _ENVIRONMENT.get_template(own).render(
        notice=NOTICE,
        spec=spec,
        variants=variants,
        in_this_file=[variant for variant in variants if variant.file == name],
        gradients=gradients,
        rules=rules,
        files={backend: sorted({k.file for k in kernels if k.backend == backend}) for backend in ("cuda", "cpu")},
        table=TABLE,
    )
    return seal(text)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # C++ is not HTML
)
_ENVIRONMENT.filters |= {
    "cpp_dtype": lambda dtype: DTYPES[dtype].cpp,
    "cpp_epilogue": lambda epilogue: EPILOGUES[epilogue].cpp,
    "cpp_instruction_set": lambda instruction_set: INSTRUCTION_SETS[instruction_set].cpp,
    "cpp_size": lambda size: "kAny" if size is None else str(size),
    "cpp_limit": lambda limit: "INT64_MAX" if limit is None else str(limit),
    "cpp_bool": lambda value: "true" if value else "false",
    "json": json.dumps,
}
