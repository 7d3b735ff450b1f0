"""The step of ReLU codes with a penalty once few of them are active: the same gradients, at the active latents only."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from tasks.sae.architecture import Batch
from tasks.sae.dense import Found
from tasks.sae.exchange import Exchange
from tasks.sae.kernels.types import Entries
from tasks.sae.parameters import Parameters
from tasks.sae.selected import write_rest
from tasks.sae.sparse_step import look

SPARSE_BELOW = 0.15
"""Share of active latents in the step before below which a step touches active latents only.

Of l1 at d_in 576, d_sae 9216, batch 2048, two busy cores (``tests/benchmarks/step_paths.py``), the dense step took 3.6, 3.4,
3.0, 2.7, 1.6 and 1.0 times as long in bf16 at densities of .5, 1, 2, 5, 10 and 20%, and 5.0, 4.6, 4.7, 3.7, 2.8 and 1.9
in fp32.
"""


class Penalty(NamedTuple):
    """What the codes of this worker's latents cost beside the squared error, summed over rows."""

    total: Float[Tensor, ""]
    slope: Float[Tensor, "m"]
    """The penalty's derivative by each code."""
    radial: Float[Tensor, "d_sae"] | None = None
    """The penalty's gradient on each decoder row is this number times the row; empty: it has none."""


def sparse_relu_step(
    parameters: Parameters,
    out: Parameters,
    batch: Batch,
    exchange: Exchange,
    penalty: Callable[[Entries], Penalty],
) -> Found:
    """Gradients of the mean over rows of the squared error plus a penalty.

    Args:
        parameters: the weights.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the result.
        batch: this worker's rows.
        exchange: to the other workers.
        penalty: what the active codes of all workers' rows cost.
    """
    seen = look(parameters, batch, exchange, 0.0)
    entries, n = seen.entries, len(seen.x)
    (rows, d_values), cost = seen.decode(entries), penalty(entries)
    write_rest(out, rows, seen.x)
    radial = None if cost.radial is None else cost.radial / n
    gradients = seen.by_latent(seen.part(entries, d_values + cost.slope / n, rows), radial)
    sums = seen.sums(rows.squared_error, seen.total(cost.total) / n, entries)
    return Found(sums, gradients, sums.n_active)
