"""The last step of a mixture-of-experts layer, summing each token's top-k expert rows, in one call for every size."""

from moe_cute._explanation import Explanation, explain, variants
from moe_cute._front import sum_reduce

__version__ = "0.1.0"

__all__ = ["Explanation", "__version__", "explain", "sum_reduce", "variants"]
