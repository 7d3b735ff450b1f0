"""What steps at active latents only have in common: finding the entries of all workers' rows, and what to tell of them.

Workers gather rows and entries, and share what their latents decode to, as in ``selection_step``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.architectures.affine import rest_to_rebuild
from tasks.sae.architectures.base import StepBatch, StepSums
from tasks.sae.architectures.pre_activations import PreActivations
from tasks.sae.kernels.backend import ByLatent
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import NOTHING_ADDED, AddedGradients, Coded, DecodedRows, Entries, Part
from tasks.sae.latent_parallel import all_reduced, decode_on_mesh, row_shard
from tasks.sae.mesh import Mesh, all_gather_entries, optimizer_shard
from tasks.sae.parameters import Parameters


@dataclass(frozen=True, slots=True)
class ActiveStep:
    """All workers' rows, scaled, and those of this worker's pre-activations that a step at active latents looks at."""

    x: Float[Tensor, "n d_in"]
    target: Float[Tensor, "n_own d_out"]
    """What the latents have to rebuild of this worker's stretch of its rows."""
    entries: Entries
    W_dec: Float[Tensor, "d_own d_out"]
    mesh: Mesh

    def decode(self, entries: Entries) -> tuple[DecodedRows, Float[Tensor, "m"]]:
        """Compare what ``entries`` decode to with the target; the mean over rows of the squared error by their values."""
        weight = self.x.new_full((1,), 1 / len(self.x))
        rows = decode_on_mesh(self.target, Coded(entries, self.W_dec, self._bounds), weight, self.mesh)
        assert rows.d_values is not None
        return rows, rows.d_values

    def all_reduced(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the workers that hold other latents."""
        return all_reduced(value, self.mesh.latents)

    def by_latent(self, part: Part, added: AddedGradients = NOTHING_ADDED) -> ByLatent:
        """The gradients of the latents that this worker updates."""
        low, high = optimizer_shard(self.mesh.data, len(self.W_dec))
        return backend_for(self.x).by_latent([part], (low, high), added.within(low, high))

    def part(self, entries: Entries, d_values: Tensor, rows: DecodedRows) -> Part:
        """The gradients' sums, of W_dec over all of ``rows`` and of the encoder by each entry's ``d_values``."""
        return Part(entries, d_values, rows.output_gradient, self.x, self._bounds)

    def sums(self, error: Float[Tensor, "1"], penalty: Tensor, active: Entries) -> StepSums:
        """What the step tells: ``error`` as ``decode`` found it, and ``penalty``, a mean over rows, of all latents."""
        squared_error = error[-1].to(self.x.dtype)
        fired = torch.zeros(len(self.W_dec), dtype=torch.bool, device=self.x.device)
        fired[active.latents.long()] = True
        loss = squared_error / len(self.x) + penalty
        return StepSums(len(self.x), loss, squared_error, self.all_reduced(loss.new_tensor(len(active.latents))), fired)

    @property
    def _bounds(self) -> tuple[int, ...]:
        return (len(self.W_dec),)


def begin_active_step(
    parameters: Parameters, batch: StepBatch, mesh: Mesh, level: float | Float[Tensor, "d_sae"]
) -> ActiveStep:
    """Find all pre-activations above ``level``, of one number or one for each latent."""
    d_in = parameters.encoder.shape[1]
    x, y = batch.rows(batch.raw, d_in)
    dtype = parameters.flat.dtype
    above = PreActivations(parameters, x, batch).select([lambda rows: backend_for(rows).select_above(rows, level, dtype)])
    entries = all_gather_entries(mesh.data, above[0])
    target = rest_to_rebuild(parameters, *(row_shard(rows, mesh.latents) for rows in (x, y)))
    if mesh.data.world_size > 1:
        x, _ = batch.rows(mesh.data.all_gather([batch.raw])[0], d_in)
    return ActiveStep(x, target, entries, parameters.W_dec, mesh)
