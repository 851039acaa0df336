"""The last step of a mixture-of-experts layer, summing each token's top-k expert rows, in one call for every size."""

import sys
from itertools import pairwise

__version__ = "0.1.0"

_failure: Exception | None = None

try:
    from moe_cute._explanation import Explanation, explain, variants
    from moe_cute._front import sum_reduce
except Exception as error:
    # Under `python -m moe_cute`, doctor shall say what is wrong.
    if ("-m", "moe_cute") not in pairwise(sys.orig_argv):
        raise
    _failure = error


def __getattr__(name: str) -> object:
    if _failure is not None and name in __all__:
        raise ImportError(f"moe_cute.{name} is missing, since its import failed: {_failure}") from _failure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Explanation", "__version__", "explain", "sum_reduce", "variants"]
