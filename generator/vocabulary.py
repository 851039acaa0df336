"""The words a spec may use, and how names and C++ spell them: nothing else of a spec reaches the C++."""

from dataclasses import dataclass
from typing import Literal

DTypeName = Literal["float16", "bfloat16", "float32", "float64"]
InstructionSetName = Literal["baseline", "avx2", "avx512"]
EpilogueName = Literal["plain", "weighted", "permuted", "routed"]
BackendName = Literal["cuda", "cpu"]

# Those that nvcc 13 knows, from the first with bfloat16 arithmetic on.
Architecture = Literal[80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121]


@dataclass(frozen=True)
class DType:
    short: str
    bytes: int
    cpp: str


@dataclass(frozen=True)
class InstructionSet:
    cpp: str
    needs: str


@dataclass(frozen=True)
class Epilogue:
    cpp: str
    fuses: str
    most_threads: int  # of a block, for its registers: max_threads in csrc/configuration.hpp


DTYPES: dict[DTypeName, DType] = {
    "float16": DType("f16", 2, "DType::kFloat16"),
    "bfloat16": DType("bf16", 2, "DType::kBFloat16"),
    "float32": DType("f32", 4, "DType::kFloat32"),
    "float64": DType("f64", 8, "DType::kFloat64"),
}

# In rising order, as in csrc/configuration.hpp.
INSTRUCTION_SETS: dict[InstructionSetName, InstructionSet] = {
    "baseline": InstructionSet("InstructionSet::kBaseline", "any processor"),
    "avx2": InstructionSet("InstructionSet::kAvx2", "AVX2, FMA, F16C"),
    "avx512": InstructionSet("InstructionSet::kAvx512", "AVX-512 F, BW, DQ, VL"),
}

# From the least work to the most.
EPILOGUES: dict[EpilogueName, Epilogue] = {
    "plain": Epilogue("Epilogue::kPlain", "sum and scale only", 512),
    "weighted": Epilogue("Epilogue::kWeighted", "topk_weights, shared_output", 256),
    "permuted": Epilogue("Epilogue::kPermuted", "topk_weights, shared_output and inv_permuted_idx", 256),
    "routed": Epilogue("Epilogue::kRouted", "every argument", 256),
}
