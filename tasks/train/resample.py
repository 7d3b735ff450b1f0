"""Dead latents are drawn anew from rows that are rebuilt badly (https://transformer-circuits.pub/2023/monosemantic-features).

The rows are those of the step at hand, over all workers, where the paper takes 819,200 others: a batch of a thousand has
bad rows enough for the dead latents of a run, and no second pass over the data is needed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from tasks.sae.architectures.base import Scratch, StepBatch
from tasks.sae.architectures.row_blocks import in_blocks
from tasks.sae.latent_parallel import all_reduced
from tasks.sae.mesh import Mesh, ProcessGroup
from tasks.sae.parameters import Parameters
from tasks.train.plan import Plan
from tasks.train.train_state import TrainState

ENCODER_SHARE = 0.2
"""Norm of a new latent's encoder weights, as a share of the mean of the live ones'."""


def resample(state: TrainState, batch: StepBatch, plan: Plan, mesh: Mesh) -> None:
    """Give each dead latent the direction of a row drawn by its squared loss; its moments and bias start from 0."""
    dead, latents = batch.dead.nonzero().squeeze(1), mesh.latents
    counts = latents.all_gather([batch.dead.sum()[None]])[0].tolist()
    if sum(counts) == 0:
        return
    p, d_in = state.parameters, plan.layout.d_in
    x, y = batch.rows(mesh.data.all_gather([batch.raw])[0], d_in)
    # By each of its own rows, as often as its memory asks for: all of them draw by the same bits.
    (losses,) = mesh.data.all_gather([_losses(p, *batch.rows(batch.raw, d_in), batch.scratch, latents)])
    drawn = draw_by_loss(losses, sum(counts), plan.seed + 1_000_003 * (state.step + 1))
    if drawn is None:
        return
    chosen = torch.split(drawn, counts)[latents.rank]
    size = ENCODER_SHARE * _mean_norm(p, ~batch.dead, latents)
    mesh.data.barrier()  # shared weights are read by all before they are written, with the same numbers by all
    p.W_dec[dead] = normalize(y[chosen])
    p.encoder[dead] = normalize(x[chosen]) * size
    p.b_enc[dead] = 0.0
    for moment in state.moments:
        for part in (moment.encoder, moment.W_dec, moment.b_enc):
            part[dead] = 0.0
    mesh.data.barrier()
    state.silent[dead] = 0


def _mean_norm(p: Parameters, alive: Tensor, latents: ProcessGroup) -> float:
    """Mean norm of the encoder weights of all live latents; of all latents where none lives."""
    norms: Tensor = torch.linalg.vector_norm(p.encoder, dim=1)
    sums = torch.stack([norms[alive].sum(), alive.sum(), norms.sum(), torch.ones_like(norms).sum()])
    of_live, n_live, of_all, n_all = all_reduced(sums, latents).tolist()
    return float(of_live / n_live if n_live else of_all / n_all)


def _losses(p: Parameters, x: Tensor, y: Tensor, scratch: Scratch, latents: ProcessGroup) -> Tensor:
    """Squared error of each row; 0 for rows without a direction, which no latent could take."""

    def decoded(blocks: Sequence[slice]) -> Tensor:
        return torch.cat([linear(x[block], p.encoder, p.b_enc).relu_() @ p.W_dec for block in blocks])

    y_hat = all_reduced(in_blocks(len(x), scratch, decoded), latents) + p.b_dec
    if "W_skip" in p.extra:
        y_hat += linear(x, p.extra["W_skip"])
    return (y - y_hat).square().sum(1).where(x.any(1) & y.any(1), 0.0)


def draw_by_loss(loss: Tensor, count: int, seed: int) -> Tensor | None:
    """``count`` rows, drawn by their squared loss; None where all rows are rebuilt.

    The draw is among rows sorted by loss: their order in the batch depends on the number of workers.
    """
    weight, order = loss.square().double().sort(descending=True)
    if not float(weight[0]) > 0:
        return None
    generator = torch.Generator().manual_seed(seed)
    return order[torch.multinomial(weight.cpu(), count, replacement=True, generator=generator).to(order.device)]
