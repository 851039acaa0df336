"""Loads the compiled extension, or says plainly what is missing."""

import torch  # noqa: F401  (the extension is linked against torch's libraries, which this makes present)

try:
    import moe_cute._C as _C
except ImportError as error:
    raise ImportError(
        "moe_cute's compiled extension does not load: "
        f"{error}. Build it with `make build` (or `pip install .`), against torch 2.10 or newer."
    ) from error

__all__ = ["_C"]
