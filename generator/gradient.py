"""The kernels behind the gradients of sum_reduce: one for each dtype, and on the CPU for each instruction set."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from generator.spec import Spec
from generator.vocabulary import DTYPES, INSTRUCTION_SETS, BackendName, DTypeName, InstructionSetName

# slot_dot: the gradient of topk_weights. row_sum: that of a permuted input. All other gradients are sum_reduce itself.
OperationName = Literal["slot_dot", "row_sum"]
OPERATIONS: tuple[OperationName, ...] = get_args(OperationName)


@dataclass(frozen=True)
class GradientKernel:
    """What a kernel is compiled for: any sizes and strides; `instruction_set` is None on CUDA."""

    operation: OperationName
    backend: BackendName
    dtype: DTypeName
    instruction_set: InstructionSetName | None

    @property
    def name(self) -> str:
        """For example `slot_dot_cuda_bf16` or `row_sum_cpu_avx2_f32`."""
        parts = [self.operation, self.backend, self.instruction_set, DTYPES[self.dtype].short]
        return "_".join(part for part in parts if part)

    @property
    def file(self) -> str:
        """The generated file that instantiates it."""
        return "gradients_cuda.cu" if self.backend == "cuda" else "gradients_cpu.cpp"

    @property
    def cpp_body(self) -> str:
        """Its template in csrc/: SlotDot or RowSum."""
        return self.operation.title().replace("_", "")

    @property
    def cpp_arguments(self) -> str:
        """The template arguments of its launcher (csrc/gradient.hpp)."""
        arguments = [self.cpp_body, DTYPES[self.dtype].cpp]
        if self.instruction_set is not None:
            arguments.append(INSTRUCTION_SETS[self.instruction_set].cpp)
        return ", ".join(arguments)

    @property
    def row(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        return {"name": self.name, **asdict(self), "file": self.file}


def kernels(spec: Spec) -> list[GradientKernel]:
    """In the table's order: of the instruction sets that a processor has, the first is the best."""
    best_first = [name for name in reversed(INSTRUCTION_SETS) if name in spec.backends.cpu.instruction_sets]
    return [
        kernel
        for operation in OPERATIONS
        for dtype in spec.vector_widths
        for kernel in (
            GradientKernel(operation, "cuda", dtype, None),
            *(GradientKernel(operation, "cpu", dtype, instruction_set) for instruction_set in best_first),
        )
    ]
