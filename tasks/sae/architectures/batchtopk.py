"""BatchTopK (https://arxiv.org/abs/2412.06410).

The n * k largest pre-activations of a batch of n rows, over all workers, are its codes, so that rows may take more or
fewer latents than k. A finished SAE sees one row at a time: it keeps what exceeds the threshold at which training kept.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.architectures.base import Architecture, StepBatch, StepSums
from tasks.sae.architectures.initial_size import match_size
from tasks.sae.architectures.names import Description
from tasks.sae.architectures.pre_activations import PreActivations, Selection
from tasks.sae.architectures.selection_step import selected_gradients
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.backend import ByLatent, SelectsOfBatch
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import Entries
from tasks.sae.latent_parallel import all_reduced, largest_of_batch
from tasks.sae.mesh import Mesh, ProcessGroup, all_gather_entries, all_reduce_over_mesh
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Folding, Weights

DESCRIPTION = Description(
    title="BatchTopK",
    about="k latents a token on average: the largest of the whole batch",
    k="batch",
    settings=("k", "k_start", "aux_k", "aux_coefficient"),
)

THRESHOLD_RATE = 0.05
"""Share of a step's threshold in the running mean.

With .01 the mean still holds what the threshold was before the learning rate fell, where runs are short: after 300 steps of
1,024 rows with k 8 a finished SAE kept 6.5 latents per row, with .05 it keeps 7.7.
"""
_SAMPLE_ROWS = 64
_MARGIN = 0.8  # of the last threshold: low enough to hold all that will be kept, high enough to hold little else


class BatchTopK(Architecture):
    """The n * k largest pre-activations of the batch, rectified."""

    description = DESCRIPTION
    tensors = ("threshold",)
    leans_on_rows = True
    lr = 5e-3
    revives = True
    dead_share = 1 / 650

    @override
    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(1, dtype=torch.float64)}

    @override
    def start(
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        match_size(parameters, x, y, config.k)

    def bounds(self, config: SAEConfig) -> tuple[int, ...]:
        """Ends of the nested prefixes that must each rebuild the rows."""
        return (config.d_sae,)

    @override
    def gradients(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> tuple[StepSums, ByLatent | None]:
        def select(pre_acts: PreActivations, others: Sequence[Selection]) -> list[Entries]:
            count = batch.k * pre_acts.n * mesh.data.world_size
            kept, *rest = _largest(pre_acts, others, count, batch.buffers["threshold"], mesh, parameters.flat.dtype)
            _follow(batch.buffers["threshold"], kept, mesh.latents)
            return [kept, *rest]

        return selected_gradients(config, parameters, out, batch, mesh, select, self.bounds(config))

    @override
    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights) -> Float[Tensor, "n d_sae"]:
        return pre_acts.where(pre_acts > weights.extra["threshold"], 0.0)

    @override
    def finished(self, parameters: Parameters, buffers: Mapping[str, Tensor], folding: Folding) -> dict[str, Tensor]:
        threshold = folding.level(buffers["threshold"].to(parameters.flat.device))
        return {"threshold": threshold.expand(len(parameters.b_enc)).clone()}

    @override
    def take_over(
        self,
        config: SAEConfig,
        parameters: Parameters,
        buffers: Mapping[str, Tensor],
        finished: Mapping[str, Tensor],
        folding: Folding,
        x: Float[Tensor, "m d_in"],
    ) -> None:
        buffers["threshold"].copy_(folding.own_level(finished["threshold"]).mean())


def _largest(
    pre_acts: PreActivations, others: Sequence[Selection], count: int, threshold: Tensor, mesh: Mesh, dtype: torch.dtype
) -> list[Entries]:
    """Of the ``count`` largest positive pre-activations of all rows, those of this worker's latents; after them the others.

    A worker that is alone finds them at once, where its backend does and memory has room. Else whatever exceeds a level
    somewhat below the running threshold is looked at first; only if that is too little, which happens in the first steps,
    the level is lowered. The result does not depend on the way, but for ties.
    """
    backend = pre_acts.backend
    if isinstance(backend, SelectsOfBatch) and mesh.data.world_size * mesh.latents.world_size == 1:
        at_once = pre_acts.select_at_once([lambda rows: backend.select_of_batch(rows, count, dtype), *others])
        if at_once:
            return at_once
    level = float(threshold) * _MARGIN or _likely_level(pre_acts, count, mesh)
    above, *rest = pre_acts.select([_above(level, dtype), *others])
    while True:
        found = all_gather_entries(mesh.data, above)
        n_found = all_reduced(found.start[-1], mesh.latents)
        if int(n_found) >= count or level == 0.0:
            return [largest_of_batch(found, count, mesh.latents), *rest]
        level = level / 2 if level > 1e-3 else 0.0
        (above,) = pre_acts.select([_above(level, dtype)])


def _above(level: float, dtype: torch.dtype) -> Selection:
    return lambda pre_acts: backend_for(pre_acts).select_above(pre_acts, level, dtype)


def _likely_level(pre_acts: PreActivations, count: int, mesh: Mesh) -> float:
    """A level that about ``count`` of all rows' pre-activations exceed, judged by some rows of this worker."""
    sample = pre_acts.first_rows(_SAMPLE_ROWS).flatten()
    n_workers = mesh.data.world_size * mesh.latents.world_size
    share = count / (pre_acts.n * pre_acts.d_own * n_workers)
    smallest = sample.topk(max(1, int(share * len(sample)))).values[-1].float().clamp(min=0.0)
    all_reduce_over_mesh(mesh, smallest)
    return _MARGIN * float(smallest) / n_workers


def _follow(threshold: Tensor, kept: Entries, latents: ProcessGroup) -> None:
    """Move the running mean towards the smallest activation that was kept."""
    found = kept.values.to(threshold)
    if kept.padded:
        found = found.where(found != 0, torch.inf)
    smallest = torch.cat([found, torch.full_like(threshold, torch.inf)]).min()
    smallest = latents.all_gather([smallest[None]])[0].min()
    followed = torch.where(threshold > 0, threshold.lerp(smallest, THRESHOLD_RATE), smallest)
    threshold.copy_(torch.where(smallest.isinf(), threshold, followed))  # nothing is asked of a GPU, which works meanwhile


ARCHITECTURE = BatchTopK()
