"""The last step of a mixture-of-experts layer, summing each token's top-k expert rows, in one call for every size."""

import sys

__version__ = "0.1.0"

_failure: Exception | None = None

try:
    from moe_cute._explanation import Explanation, explain, variants
    from moe_cute._front import sum_reduce
except Exception as error:
    # While Python looks for what `python -m moe_cute` runs, argv[0] is "-m": there, doctor shall say what is wrong.
    if sys.argv[:1] != ["-m"]:
        raise
    _failure = error

__all__ = ["Explanation", "__version__", "explain", "sum_reduce", "variants"]
