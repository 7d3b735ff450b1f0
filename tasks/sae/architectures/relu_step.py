"""The active step of ReLU codes with a penalty."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from tasks.sae.architectures.active_step import begin_active_step
from tasks.sae.architectures.affine import write_rest
from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.penalised import StepOutcome
from tasks.sae.kernels.types import AddedGradients, Entries
from tasks.sae.mesh import Mesh
from tasks.sae.parameters import Parameters

ACTIVE_BELOW = 0.15
"""Share of active latents in the step before below which a step touches active latents only.

Of l1 at d_in 576, d_sae 9216, batch 2048, two busy cores (``tests/benchmarks/step/paths.py``), the dense step took 3.6, 3.4,
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


def relu_step(
    parameters: Parameters,
    out: Parameters,
    batch: StepBatch,
    mesh: Mesh,
    penalty: Callable[[Entries], Penalty],
) -> StepOutcome:
    """Gradients of the mean over rows of the squared error plus a penalty.

    Args:
        parameters: the weights.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the result.
        batch: this worker's rows.
        mesh: of all workers.
        penalty: what the active codes of all workers' rows cost.
    """
    step = begin_active_step(parameters, batch, mesh, 0.0)
    entries, n = step.entries, len(step.x)
    (rows, d_values), cost = step.decode(entries), penalty(entries)
    write_rest(out, rows, step.x)
    added = AddedGradients(radial=None if cost.radial is None else cost.radial / n)
    gradients = step.by_latent(step.part(entries, d_values + cost.slope / n, rows), added)
    sums = step.sums(rows.squared_error, step.all_reduced(cost.total) / n, entries)
    return StepOutcome(sums, gradients, sums.n_active)
