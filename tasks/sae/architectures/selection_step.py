"""The step of architectures that select their codes (TopK and its kin): everything happens at the active latents only.

Workers with other rows share all of the work. Each encodes and decodes its own rows; then rows, codes and the gradients on
what they decode to are gathered, and each worker updates its part of the latents over the whole batch, in memory that all
share or to be gathered by the others. No gradient of a weight is ever sent, and all workers are left with equal bits.
Workers that hold different latents of the same rows share the choice, and what they decode to.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tasks.sae.architectures.affine import rest_to_rebuild, write_rest
from tasks.sae.architectures.base import StepBatch, StepSums
from tasks.sae.architectures.pre_activations import PreActivations, Selection
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.backend import ByLatent
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import Coded, DecodedRows, Entries, Part, no_entries
from tasks.sae.latent_parallel import decode_on_mesh, largest_of_rows, row_shard, shard_bounds
from tasks.sae.losses import resolved_aux_k
from tasks.sae.mesh import Mesh, ProcessGroup, all_gather_entries, optimizer_shard
from tasks.sae.parameters import Parameters

Select = Callable[[PreActivations, Sequence[Selection]], list[Entries]]
"""(pre_acts of all this worker's rows and latents, others) -> its latents' entries in all workers' rows, in the order of
ranks, and after them what each of the others selects in this worker's rows."""


def selected_gradients(
    config: SAEConfig,
    parameters: Parameters,
    out: Parameters,
    batch: StepBatch,
    mesh: Mesh,
    select: Select,
    bounds: tuple[int, ...],
) -> tuple[StepSums, ByLatent]:
    """Gradients of the mean over prefixes of the squared error over variance, plus AuxK.

    Args:
        config: the SAE's settings.
        parameters: the weights.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the second result.
        batch: this worker's rows.
        mesh: of all workers.
        select: chooses the active latents of all workers' rows from this worker's pre-activations.
        bounds: ends of the nested prefixes of latents that must each rebuild the rows; one, d_sae, for plain SAEs.
    """
    d_own, d_in = parameters.encoder.shape
    latents = mesh.latents
    bounds = shard_bounds(bounds, d_own, latents)
    x, y = batch.rows(batch.raw, d_in)
    entries, dead = _selected(config, PreActivations(parameters, x, batch), batch, parameters, latents, select)
    target = rest_to_rebuild(parameters, *(row_shard(rows, latents) for rows in (x, y)))
    weight = x.new_full((len(bounds),), 1 / (len(bounds) * y.numel() * mesh.data.world_size))
    W_dec = _decoder(parameters, batch, mesh)
    rows = decode_on_mesh(target, Coded(entries, W_dec, bounds), weight, mesh, pull=False)
    if mesh.data.world_size > 1:
        dead = None if dead is None else all_gather_entries(mesh.data, dead)
        x, _ = batch.rows(mesh.data.all_gather([batch.raw])[0], d_in)
    parts = [Part(entries, rows.d_values, rows.output_gradient, x, bounds)]
    write_rest(out, rows, x)
    loss = (rows.squared_error.to(weight.dtype) * weight).sum()
    if dead is not None:
        revival, part = _revival(config, W_dec, rows, dead, x, mesh)
        loss = loss + revival
        parts.append(part)
    error, n_entries = rows.squared_error[-1].to(loss.dtype), rows.n_entries.to(loss.dtype)
    sums = StepSums(len(x), loss, error, n_entries, entries.fired(d_own))
    return sums, backend_for(x).by_latent(parts, optimizer_shard(mesh.data, d_own))


def _decoder(parameters: Parameters, batch: StepBatch, mesh: Mesh) -> Tensor:
    """What rows are decoded by: in bfloat16 where that is at hand, since the values were rounded to it too.

    Of several workers each updates a part of the weights, and has no copy of the others'.
    """
    is_alone = mesh.data.world_size * mesh.latents.world_size == 1
    if batch.bf16 and is_alone and backend_for(parameters.W_dec).copies_weights:
        return batch.scratch.copies.decoder(parameters)
    return parameters.W_dec


def _selected(
    config: SAEConfig,
    pre_acts: PreActivations,
    batch: StepBatch,
    parameters: Parameters,
    latents: ProcessGroup,
    select: Select,
) -> tuple[Entries, Entries | None]:
    """The active latents of all workers' rows, and the largest dead ones of this worker's rows; None where none is dead."""
    pre_acts.begin()  # a GPU has this to do while it is asked how many are dead
    n_dead = int(batch.dead.sum() if batch.n_dead is None else batch.n_dead)
    aux_k = min(resolved_aux_k(config), n_dead)
    if aux_k == 0:
        return select(pre_acts, [])[0], None
    columns = _marked(batch.dead, n_dead if latents.world_size == 1 else None)
    entries, dead = select(pre_acts, [_dead_selection(columns, aux_k, parameters.flat.dtype)])
    return entries, largest_of_rows(dead, aux_k, latents, pre_acts.dtype)


def _marked(mask: Tensor, n: int | None) -> Tensor:
    """Places of a mask in their order; ``nonzero`` would ask a GPU how many there are, which may be known."""
    if n is None:
        return mask.nonzero().squeeze(1)
    return torch.searchsorted(mask.cumsum(0), torch.arange(1, n + 1, device=mask.device))


def _dead_selection(columns: Tensor, aux_k: int, dtype: torch.dtype) -> Selection:
    """The ``aux_k`` largest of some of this worker's latents in each row."""

    def select(pre_acts: Tensor) -> Entries:
        if len(columns) == 0:
            return no_entries(len(pre_acts), pre_acts, dtype)
        return backend_for(pre_acts).select_columns(pre_acts, columns, aux_k, dtype)

    return select


def _revival(
    config: SAEConfig, W_dec: Tensor, rows: DecodedRows, dead: Entries, x: Tensor, mesh: Mesh
) -> tuple[Tensor, Part]:
    """AuxK: dead latents rebuild the residual, with a loss relative to its size; the residual is a constant to it."""
    size = rows.squared_error[-1]
    weight = torch.where(size > 0, config.aux_coefficient / size, 0.0).to(x.dtype).reshape(1)
    bounds = (len(W_dec),)
    again = decode_on_mesh(rows.residual(), Coded(dead, W_dec, bounds), weight, mesh, pull=False)
    loss = (again.squared_error.to(weight.dtype) * weight).sum()
    return loss, Part(dead, again.d_values, again.output_gradient, x, bounds)
