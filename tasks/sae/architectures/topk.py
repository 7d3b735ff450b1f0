"""TopK with AuxK (https://arxiv.org/abs/2406.04093), its gradients written out over the kept latents only."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.architectures.base import Architecture, StepBatch, StepSums
from tasks.sae.architectures.initial_size import match_size
from tasks.sae.architectures.names import Description
from tasks.sae.architectures.pre_activations import PreActivations, Selection
from tasks.sae.architectures.selection_step import selected_gradients
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.backend import ByLatent
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import Entries
from tasks.sae.latent_parallel import largest_of_rows
from tasks.sae.mesh import Mesh, all_gather_entries
from tasks.sae.ops import SparseCodes, densify, top_k
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Weights

DESCRIPTION = Description(
    title="TopK",
    about="the k largest latents of each token, with AuxK",
    k="row",
    settings=("k", "k_start", "aux_k", "aux_coefficient"),
)


class TopK(Architecture):
    """The k largest pre-activations of each row, rectified."""

    description = DESCRIPTION
    leans_on_rows = True
    lr = 5e-3
    revives = True
    dead_share = 1 / 650

    @override
    def start(
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        match_size(parameters, x, y, config.k)

    @override
    def gradients(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> tuple[StepSums, ByLatent | None]:
        def select(pre_acts: PreActivations, others: Sequence[Selection]) -> list[Entries]:
            k, dtype = min(batch.k, pre_acts.d_own), parameters.flat.dtype
            mine, *rest = pre_acts.select([lambda rows: backend_for(rows).select_top_k(rows, k, dtype), *others])
            kept = largest_of_rows(mine, batch.k, mesh.latents, pre_acts.dtype)
            most = pre_acts.n * k if mesh.latents.world_size == 1 else None
            return [all_gather_entries(mesh.data, kept, most=most), *rest]

        return selected_gradients(config, parameters, out, batch, mesh, select, (config.d_sae,))

    @override
    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights) -> Float[Tensor, "n d_sae"]:
        return densify(top_k(pre_acts, config.k), pre_acts.shape[1])

    @override
    def activate_sparse(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> SparseCodes:
        return top_k(pre_acts, config.k)


ARCHITECTURE = TopK()
