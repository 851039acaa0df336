"""Functions with the signatures and semantics of other packages' own, over `moe_cute.sum_reduce`."""
