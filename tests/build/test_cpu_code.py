"""What the compiler made of each CPU variant of the last build."""

import platform
import re
import shutil
import subprocess
from functools import cache

import pytest

from generator.vocabulary import DTYPES
from tests.build.sass import object_file
from tests.variants import EPILOGUES, INSTRUCTION_SETS, manifest

VARIANTS = [row for row in manifest()["variants"] if row["backend"] == "cpu"]
FUNCTION = re.compile(
    r"^[0-9a-f]+ <moe_cute::cpu::Compiled<moe_cute::cpu::Work<moe_cute::cpu::CompiledFor<moe_cute::Configuration<"
    r"\(moe_cute::DType\)(\d), 0, (\d+), (\d+), \(moe_cute::Epilogue\)(\d), .*\(moe_cute::InstructionSet\)(\d)>::run\("
)
pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for an instruction of x86-64"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="there is no objdump"),
    pytest.mark.xdist_group("sass"),
]


@cache
def prefetches_of(file: str) -> dict[tuple[int, ...], int]:
    """By what a kernel is compiled for: dtype, topk, vector width, epilogue, instruction set."""
    path = object_file(file)
    if not path.exists():
        pytest.skip(f"{path} is not here: no build was made in this tree")
    code = subprocess.run(["objdump", "-d", "-C", path], capture_output=True, text=True, check=True).stdout
    found: dict[tuple[int, ...], int] = {}
    for function in code.split("\n\n"):
        if match := FUNCTION.match(function):
            found[tuple(map(int, match.groups()))] = function.count("prefetcht1")
    return found


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda row: row["name"])
def test_rows_are_asked_for_ahead(variant: dict) -> None:
    """Into the L2 cache: GCC takes a loop of nothing else for an empty one."""
    key = (
        list(DTYPES).index(variant["dtype"]),  # numbered as in csrc/configuration.hpp
        variant["topk"] or 0,
        variant["vector_width"],
        EPILOGUES.index(variant["epilogue"]),
        1 + INSTRUCTION_SETS.index(variant["instruction_set"]),
    )
    assert prefetches_of(variant["file"])[key] >= max(1, variant["topk"] or 0)
