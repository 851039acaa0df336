"""What nvcc made of each CUDA variant, for every architecture of the last build."""

from collections.abc import Iterator

import pytest

from build_support.architectures import FIRST_WITH_DEPENDENT_LAUNCH
from tests import variants
from tests.build import sass
from tests.build.sass import Configuration, Gradient, Kernel
from tests.variants import EPILOGUES, manifest

UNREADABLE = sass.why_unreadable()
pytestmark = [
    pytest.mark.skipif(UNREADABLE is not None, reason=str(UNREADABLE)),
    pytest.mark.xdist_group("sass"),  # one worker reads the code, not all of them
]

DTYPES = ("float16", "bfloat16", "float32", "float64")  # numbered as in csrc/configuration.hpp
ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
LOADS = {2: "LDG.E.U16", 4: "LDG.E", 8: "LDG.E.64", 16: "LDG.E.128"}
SUMS = ("FADD", "FFMA", "DADD", "DFMA")

# A row's index or the count of live tokens, looked at before the wait: a guess, whatever they are.
GLANCES = (LOADS[4], LOADS[8])
MAY_GLANCE = ("permuted", "routed")

SHIFTS = {variant.name: variant.shifts for variant in variants.VARIANTS}
VARIANTS = [row for row in manifest()["variants"] if row["backend"] == "cuda"]
GRADIENTS = [row for row in manifest()["gradients"] if row["backend"] == "cuda"]
GRADIENT_BODIES = {"slot_dot": "SlotDot", "row_sum": "RowSum"}
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda row: row["name"])
each_plain_unrolled_variant = pytest.mark.parametrize(
    "variant",
    [row for row in VARIANTS if row["epilogue"] == "plain" and row["topk"] is not None],
    ids=lambda row: row["name"],
)


def kernels_of(variant: dict) -> Iterator[tuple[str, Kernel]]:
    """The variant's kernel for each architecture; a missing one is a KeyError that names it."""
    configuration = Configuration(
        DTYPES.index(variant["dtype"]),
        variant["hidden"] or 0,
        variant["topk"] or 0,
        variant["vector_width"],
        EPILOGUES.index(variant["epilogue"]),  # likewise
        int(variant["unaligned"]),
    )
    architectures = sass.architectures_of(variant["file"])
    assert architectures
    for architecture in architectures:
        yield f"sm_{architecture}", sass.kernels_of(variant["file"], architecture)[configuration]


def gradient_kernels_of(gradient: dict) -> Iterator[tuple[str, Kernel]]:
    name = Gradient(GRADIENT_BODIES[gradient["operation"]], DTYPES.index(gradient["dtype"]))
    for architecture in sass.architectures_of(gradient["file"]):
        yield f"sm_{architecture}", sass.kernels_of(gradient["file"], architecture)[name]


def shifts(variant: dict) -> bool:
    return SHIFTS[variant["name"]]


def elements_of_load(variant: dict) -> int:
    """Unaligned vectors are loaded element by element, or shifted out of the aligned words that hold them."""
    return variant["vector_width"] if shifts(variant) or not variant["unaligned"] else 1


def load_of(variant: dict) -> str:
    return LOADS[elements_of_load(variant) * ELEMENT_BYTES[variant["dtype"]]]


def loads_of(variant: dict) -> int:
    """Of all rows, at least."""
    of_row = 2 if shifts(variant) else variant["vector_width"] // elements_of_load(variant)
    return (variant["topk"] or 1) * of_row


def is_global_read(opcode: str) -> bool:
    return opcode.startswith(("LDG", "LD."))


@each_variant
def test_nothing_is_spilled(variant: dict) -> None:
    for architecture, kernel in kernels_of(variant):
        assert (kernel.stack_bytes, kernel.local_bytes) == (0, 0), architecture
        assert not [opcode for opcode in kernel.opcodes if opcode.startswith(("LDL", "STL"))], architecture


@each_variant
def test_rows_are_loaded_in_full_width(variant: dict) -> None:
    for architecture, kernel in kernels_of(variant):
        assert kernel.opcodes.count(load_of(variant)) >= loads_of(variant), architecture
        if variant["epilogue"] == "plain":  # which loads nothing but rows
            of_end = {LOADS[2]} if shifts(variant) else set()  # what an aligned word would hold past the input's end
            assert set(filter(is_global_read, kernel.opcodes)) == {load_of(variant), *of_end}, architecture


@each_plain_unrolled_variant
def test_every_row_is_on_its_way_before_the_first_add(variant: dict) -> None:
    for architecture, kernel in kernels_of(variant):
        first_add = next(at for at, opcode in enumerate(kernel.opcodes) if opcode.startswith(SUMS))
        assert kernel.opcodes[:first_add].count(load_of(variant)) == loads_of(variant), architecture


@each_variant
def test_nothing_is_read_before_the_previous_kernel_has_ended(variant: dict) -> None:
    for architecture, kernel in kernels_of(variant):
        if int(architecture.removeprefix("sm_")) < FIRST_WITH_DEPENDENT_LAUNCH:
            assert "ACQBULK" not in kernel.opcodes
            continue
        assert kernel.opcodes.count("PREEXIT") == 1, architecture
        wait = kernel.opcodes.index("ACQBULK")
        early = set(filter(is_global_read, kernel.opcodes[:wait]))
        assert early <= (set(GLANCES) if variant["epilogue"] in MAY_GLANCE else set()), architecture
        assert kernel.opcodes[wait:].count(load_of(variant)) >= loads_of(variant), architecture


@pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda row: row["name"])
def test_gradients_read_nothing_before_the_previous_kernel_has_ended(gradient: dict) -> None:
    for architecture, kernel in gradient_kernels_of(gradient):
        assert (kernel.stack_bytes, kernel.local_bytes) == (0, 0), architecture
        reads = [at for at, opcode in enumerate(kernel.opcodes) if is_global_read(opcode)]
        assert not [at for at in reads if "CONSTANT" in kernel.opcodes[at]], architecture
        if int(architecture.removeprefix("sm_")) >= FIRST_WITH_DEPENDENT_LAUNCH:
            assert kernel.opcodes.count("PREEXIT") == 1, architecture
            assert kernel.opcodes.index("ACQBULK") < min(reads), architecture
