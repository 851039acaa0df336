"""specs/sum_reduce.yaml, edition 1: what to build."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from generator import strict, vocabulary
from generator.strict import STRICT, Allowed, Contradiction, StrictModel
from generator.vocabulary import DTYPES, DTypeName

# Every row's load of 16 bytes is in flight at once. Of 32 rows no kernel spills, by the rules of generator/rules.py.
MAX_TOPK = 32

# Far past any model; with 32 rows of float64, an offset within a token still fits an int32.
MAX_HIDDEN = 1 << 20

# The loads that a specialised hidden size is worth having for: see generator/rules.py.
WIDE_VECTOR_BYTES = (4, 8, 16)

Value = TypeVar("Value")


def _not_allowed(allowed: str) -> PydanticCustomError:
    return PydanticCustomError("not_allowed", "{allowed}", {"allowed": allowed})


def _one_of(literal: object) -> Allowed:
    return Allowed(", ".join(str(value) for value in get_args(literal)))


def _listing(general: object) -> AfterValidator:
    """Without the kernels that take every call, some shape, stride or alignment would find none."""

    def check(items: list[Value]) -> list[Value]:
        if general not in items:
            raise _not_allowed(f"a list with {general} in it, which takes every call")
        return items

    return AfterValidator(check)


def _some(mapping: Value) -> Value:
    if not mapping:
        raise _not_allowed("at least one of " + ", ".join(DTYPES))
    return mapping


Hidden = Annotated[int, Field(ge=1, le=MAX_HIDDEN)] | Literal["any"]
TopK = Annotated[int, Field(ge=1, le=MAX_TOPK)] | Literal["any"]
Architecture = Annotated[vocabulary.Architecture, _one_of(vocabulary.Architecture)]
InstructionSet = Annotated[vocabulary.InstructionSetName, _one_of(vocabulary.InstructionSetName)]
Epilogue = Annotated[vocabulary.EpilogueName, _one_of(vocabulary.EpilogueName)]
AnyHidden = Annotated[Hidden, Allowed(f"a whole number from 1 to {MAX_HIDDEN}, or any")]
AnyTopK = Annotated[TopK, Allowed(f"a whole number from 1 to {MAX_TOPK}, or any")]
Threads = Annotated[int, Field(ge=32, le=512, multiple_of=32), Allowed("a multiple of 32 from 32 to 512")]
NotEmpty = Field(min_length=1, json_schema_extra={"uniqueItems": True})

# Powers of two, up to 16 bytes of the dtype.
Width16 = Annotated[Literal[1, 2, 4, 8], _one_of(Literal[1, 2, 4, 8])]
Width32 = Annotated[Literal[1, 2, 4], _one_of(Literal[1, 2, 4])]
Width64 = Annotated[Literal[1, 2], _one_of(Literal[1, 2])]


class Cuda(StrictModel):
    """`architectures` get machine code (90 is sm_90); the PTX of `ptx` serves GPUs that come after."""

    architectures: Annotated[list[Architecture], NotEmpty]
    ptx: Architecture


class Cpu(StrictModel):
    """Every CPU kernel is compiled for each of `instruction_sets`."""

    instruction_sets: Annotated[list[InstructionSet], NotEmpty, _listing("baseline")]


class Backends(StrictModel):
    cuda: Cuda
    cpu: Cpu


class Vectors16(StrictModel):
    """Elements of one GPU load."""

    vector_widths: Annotated[list[Width16], NotEmpty, _listing(1)]


class Vectors32(StrictModel):
    """Elements of one GPU load."""

    vector_widths: Annotated[list[Width32], NotEmpty, _listing(1)]


class Vectors64(StrictModel):
    """Elements of one GPU load."""

    vector_widths: Annotated[list[Width64], NotEmpty, _listing(1)]


class DTypes(TypedDict, total=False):
    __pydantic_config__ = STRICT  # type: ignore[misc]  # pydantic's way to configure a TypedDict
    float16: Vectors16
    bfloat16: Vectors16
    float32: Vectors32
    float64: Vectors64


class Spec(StrictModel):
    edition: Annotated[Literal[1], Allowed("1, the edition this generator reads")]
    operator: Annotated[Literal["sum_reduce"], Allowed("sum_reduce")]
    backends: Backends
    dtypes: Annotated[DTypes, AfterValidator(_some), Field(json_schema_extra={"minProperties": 1})]
    hidden_sizes: Annotated[list[AnyHidden], NotEmpty, _listing("any")]
    topk: Annotated[list[AnyTopK], NotEmpty, _listing("any")]
    threads: Annotated[list[Threads], NotEmpty]
    epilogues: Annotated[list[Epilogue], NotEmpty, _listing("routed")]

    @property
    def vector_widths(self) -> dict[DTypeName, list[int]]:
        vectors = cast("dict[DTypeName, Any]", self.dtypes)
        return {dtype: vectors[dtype].vector_widths for dtype in DTYPES if dtype in vectors}


def load(path: Path) -> Spec:
    """Raises BadFile."""
    return strict.load(path, Spec, _contradictions)


def wide_widths(dtype: DTypeName, widths: list[int]) -> list[int]:
    return [width for width in widths if width * DTYPES[dtype].bytes in WIDE_VECTOR_BYTES]


def _contradictions(spec: Spec) -> Iterator[Contradiction]:
    cuda = spec.backends.cuda
    if cuda.ptx not in cuda.architectures:
        listed = ", ".join(str(architecture) for architecture in cuda.architectures)
        yield ("backends", "cuda", "ptx"), str(cuda.ptx), f"one of architectures: {listed}"
    for index, hidden in enumerate(spec.hidden_sizes):
        for dtype, widths in spec.vector_widths.items():
            wide = wide_widths(dtype, widths)
            if hidden != "any" and all(hidden % width for width in wide):
                listed = ", ".join(str(width) for width in wide) or "none is listed"
                allowed = f"a multiple of one of {dtype}'s vectors of 4, 8 or 16 bytes: {listed}"
                yield ("hidden_sizes", index), str(hidden), allowed
                break
