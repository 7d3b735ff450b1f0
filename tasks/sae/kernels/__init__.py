"""The sparse operations compiled for CPUs by numba, in the interface of ``tasks.sae.reference``.

Only ``tasks.sae.sparse`` imports them, and only where numba can be imported.
"""

from tasks.sae.kernels.latents import by_latent
from tasks.sae.kernels.rivals import keep_largest
from tasks.sae.kernels.rows import compare, decode_groups, decode_rows, pull_back
from tasks.sae.kernels.select import select_above, select_columns, select_top_k

__all__ = [
    "by_latent",
    "compare",
    "decode_groups",
    "decode_rows",
    "keep_largest",
    "pull_back",
    "select_above",
    "select_columns",
    "select_top_k",
]
