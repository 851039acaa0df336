"""One compiled kernel: its name is its symbol, its test id and its row in every table."""

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from generator.vocabulary import (
    DTYPES,
    EPILOGUES,
    INSTRUCTION_SETS,
    BackendName,
    DTypeName,
    EpilogueName,
    InstructionSetName,
)


@dataclass(frozen=True)
class Variant:
    """What a kernel is specialised for.

    `hidden` and `topk` are sizes, or None for sizes known only at run time; `vector_width` is in elements;
    `instruction_set` is None on CUDA; `unaligned` says that a GPU's vectors may start at any element.
    """

    backend: BackendName
    dtype: DTypeName
    hidden: int | None
    topk: int | None
    vector_width: int
    instruction_set: InstructionSetName | None
    epilogue: EpilogueName
    unaligned: bool

    @property
    def name(self) -> str:
        """For example `sum_reduce_cuda_bf16_h4096_k8_v8` or `sum_reduce_cpu_avx2_f32_hany_kany_v16_routed`."""
        parts = [
            "sum_reduce",
            self.backend,
            self.instruction_set,
            DTYPES[self.dtype].short,
            f"h{self.hidden or 'any'}",
            f"k{self.topk or 'any'}",
            f"v{self.vector_width}",
            None if self.epilogue == "plain" else self.epilogue,
            "unaligned" if self.unaligned else None,
        ]
        return "_".join(part for part in parts if part)

    @property
    def file(self) -> str:
        """The generated file that instantiates it."""
        stem = f"sum_reduce_{self.backend}_{DTYPES[self.dtype].short}"
        if self.backend == "cpu":
            return f"{stem}.cpp"
        return f"{stem}.cu" if self.epilogue == "plain" else f"{stem}_{self.epilogue}.cu"

    @property
    def cpp_type(self) -> str:
        """Its `Configuration` (csrc/configuration.hpp)."""
        dtype, epilogue = DTYPES[self.dtype].cpp, EPILOGUES[self.epilogue].cpp
        sizes = f"{self.hidden or 'kAny'}, {self.topk or 'kAny'}, {self.vector_width}"
        alignment = ", Alignment::kElement" if self.unaligned else ""
        return f"Configuration<{dtype}, {sizes}, {epilogue}{alignment}>"

    @property
    def constraints(self) -> list[str]:
        """What a call must be like for this variant to accept it, in words."""
        constraints = []
        has_vectors = self.backend == "cuda" and self.vector_width > 1
        if self.hidden is not None:
            constraints.append(f"hidden == {self.hidden}, rows and tokens packed")
        elif self.unaligned:
            constraints.append(f"hidden >= {self.vector_width}, contiguous")
        elif has_vectors:
            constraints.append(f"hidden % {self.vector_width} == 0")
        if self.topk is not None:
            constraints.append(f"topk == {self.topk}")
        if has_vectors and not self.unaligned:
            constraints.append(f"aligned to {self.vector_width * DTYPES[self.dtype].bytes} bytes")
        if self.instruction_set is not None:
            constraints.append(INSTRUCTION_SETS[self.instruction_set].needs)
        constraints.append(EPILOGUES[self.epilogue].fuses)
        return constraints

    @property
    def priority(self) -> tuple[float, ...]:
        """Sorts the table: of the variants that accept a call, the first is the best."""
        return (
            self.backend == "cpu",
            list(DTYPES).index(self.dtype),
            list(EPILOGUES).index(self.epilogue),
            self.hidden or inf,
            self.topk or inf,
            -self.vector_width,
            self.unaligned,
            -list(INSTRUCTION_SETS).index(self.instruction_set) if self.instruction_set else 0,
        )

    @property
    def row(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        return {"name": self.name, **asdict(self), "file": self.file, "constraints": self.constraints}
