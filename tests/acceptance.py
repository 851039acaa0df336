"""Which calls a variant accepts, told from the manifest's constraints alone: nothing here asks the library."""

from typing import Any

from tests.variants import EPILOGUES, VARIANTS, Variant, built_names

Tensor = Any  # a torch.Tensor, or whatever else has its shape, strides, dtype, device and address
Tensors = dict[str, Tensor]


def needed_epilogue(input: Tensor, output: Tensor, tensors: Tensors) -> str:
    if {"topk_ids", "num_tokens"} & tensors.keys() or output.dtype != input.dtype:
        return "routed"
    if "inv_permuted_idx" in tensors:
        return "permuted"
    return "weighted" if {"topk_weights", "shared_output"} & tensors.keys() else "plain"


def accepts(variant: Variant, input: Tensor, output: Tensor, tensors: Tensors) -> bool:
    if variant.backend != input.device.type or variant.dtype is not input.dtype:
        return False
    if EPILOGUES.index(variant.epilogue) < EPILOGUES.index(needed_epilogue(input, output, tensors)):
        return False
    if variant.epilogue == "permuted" and "inv_permuted_idx" not in tensors:
        return False
    slots: Tensor = tensors.get("inv_permuted_idx", input)
    topk = slots.shape[1]
    if variant.topk not in (None, topk) or variant.hidden not in (None, input.shape[-1]):
        return False
    if variant.hidden is not None and not (_is_packed(input) and _is_packed(output)):
        return False
    if variant.backend == "cpu" or variant.vector_width == 1:
        return variant.why_not_here() is None
    if input.shape[-1] < variant.vector_width if variant.unaligned else input.shape[-1] % variant.vector_width:
        return False
    if variant.epilogue != "plain" and input.shape[-2] > 1 and input.stride(-2) * input.element_size() >= 2**32:
        return False
    read_or_written = [input, output, *(tensors[name] for name in ("shared_output",) if name in tensors)]
    if variant.unaligned:
        in_place = "shared_output" in tensors and tensors["shared_output"].data_ptr() == output.data_ptr()
        if in_place and input.shape[-1] % variant.vector_width:
            return False
        rows = [stride for size, stride in zip(input.shape[:-1], input.stride()[:-1], strict=True) if size > 1]
        if variant.shifts and 0 not in input.shape and any(stride < variant.vector_width for stride in rows):
            return False
        return all(tensor.stride(-1) == 1 for tensor in read_or_written)
    return all(_vectors_fit(tensor, variant.vector_width) for tensor in read_or_written)


def _is_packed(tensor: Tensor) -> bool:
    """Contiguous, but for the strides of dimensions of size one."""
    distances = [1]
    for size in reversed(tensor.shape[1:]):
        distances.append(distances[-1] * size)
    strides = zip(tensor.shape, tensor.stride(), reversed(distances), strict=True)
    return tensor.stride(-1) == 1 and all(size <= 1 or stride == packed for size, stride, packed in strides)


def _vectors_fit(tensor: Tensor, width: int) -> bool:
    """Whether every row is one run of elements that starts at a whole vector, or at 16 bytes if that is less."""
    access = min(width * tensor.element_size(), 16)
    distances = [stride for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True) if size > 1]
    starts = [tensor.data_ptr(), *(distance * tensor.element_size() for distance in distances)]
    return tensor.stride(-1) == 1 and all(start % access == 0 for start in starts)


def acceptors(input: Tensor, output: Tensor, tensors: Tensors | None = None) -> list[Variant]:
    """In the manifest's order."""
    return [
        variant
        for variant in VARIANTS
        if variant.name in built_names() and accepts(variant, input, output, tensors or {})
    ]
