"""Runs every CUDA variant once, and checks its result: `make gpu-sanitize` runs it under compute-sanitizer."""

import torch

from tests.calls import FULLEST, fused_call, plain_call
from tests.variants import VARIANTS

TOKENS = 3  # rows that cross a block of threads


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    variants = [variant for variant in VARIANTS if variant.backend == "cuda"]
    for variant in variants:
        shape = (
            TOKENS,
            variant.topk or 11,
            variant.hidden or 331 * variant.vector_width + variant.unaligned,
            variant.dtype,
            rng,
        )
        plain = variant.epilogue == "plain"
        call = plain_call(*shape) if plain else fused_call(FULLEST[variant.epilogue], *shape)
        call.check("cuda", variant.name)
    torch.cuda.synchronize()
    print(f"{len(variants)} variants, each launched once, all right")


if __name__ == "__main__":
    main()
