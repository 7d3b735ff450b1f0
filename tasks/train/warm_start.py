"""The state from which training goes on with a finished SAE on other rows (``train.init_from``).

The SAE is begun from as it is: behind the new rows' centre and scale its parameters are those that give the same codes and
reconstructions. Adam's moments are empty. Latents that do not fire on the new rows begin anew, leaning on rows that the SAE
rebuilds badly, so that what is new in the data can be born. Transferred SAEs as a start: https://arxiv.org/abs/2506.06609.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tasks.errors import InputError
from tasks.sae.architectures.registry import architecture
from tasks.sae.init import initial_parameters
from tasks.sae.mesh import ProcessGroup
from tasks.sae.model import SparseAutoencoder
from tasks.sae.parameters import SHARED, Parameters, layout_of, part_of, view
from tasks.sae.scaling import Scaling, Weights, folding, unfold, unit_of
from tasks.train.plan import Plan
from tasks.train.resample import draw_by_loss
from tasks.train.train_state import TrainState, state_from

FIRING_ROWS = 65_536
"""Rows on which it is seen which latents fire. One that fires on a ten-thousandth of all rows is missed on them with
probability .001, on the 8,192 of the initial sample with .44; and whoever is taken for dead loses its meaning."""
FIRING_SHARE = 8
"""At most this part of the run's rows, so that a short run does not spend its time on looking."""
_NUMBERS = 2**24  # of codes at once: 64 MiB
_BY_SIZE = ("threshold", "b_mag")  # of a finished SAE's tensors, those that grow with pre-activations


@dataclass(frozen=True, slots=True)
class Seen:
    """What an SAE makes of the rows that it is to be trained on."""

    fires: Bool[Tensor, "d_sae"]
    """On some row."""
    sample: Float[Tensor, "m width"]
    """Raw rows, targets too."""


@torch.no_grad()
def warm_state(
    plan: Plan,
    sae: SparseAutoencoder,
    seen: Seen,
    scaling: Scaling,
    device: str | torch.device = "cpu",
    latents: ProcessGroup | None = None,
) -> TrainState:
    """The state before the first step of a training that begins from ``sae``.

    Args:
        plan: of the training.
        sae: finished, of the plan's sizes.
        seen: what it makes of the new rows.
        scaling: of the new rows, targets too.
        device: where the state is to be.
        latents: the workers that hold some latents each, of which every one takes its part of the same weights.

    Raises:
        InputError: the SAE has other sizes.
    """
    require_fit(sae, plan)
    kind, d_in = architecture(plan.sae.arch), plan.layout.d_in
    scaling = Scaling(scaling.mean.cpu(), scaling.scale.cpu())
    source = scaling.columns(0, d_in)
    output = scaling.columns(d_in, d_in + plan.layout.d_out) if len(scaling.mean) > d_in else source
    weights, x = _cpu(sae.weights), source.apply(seen.sample[:, :d_in].cpu())
    if kind.unit_norm_decoder:
        weights = _with_unit_rows(weights, output.scale / unit_of(source))
    parameters, buffers = unfold(weights, plan.layout, source, output), kind.buffers(plan.sae)
    kind.take_over(plan.sae, parameters, buffers, weights.extra, folding(parameters, source), x)
    dead = ~seen.fires.cpu() | ~parameters.W_dec.any(1)
    if bool(dead.any()):
        y = output.apply(seen.sample[:, d_in:].cpu()) if seen.sample.shape[1] > d_in else None
        _draw_anew(parameters, dead, plan, x, y, _losses(sae, seen.sample, output, plan))
    if latents is not None and latents.world_size > 1:
        parameters = part_of(parameters, latents.rank, latents.world_size)
    state = state_from(view(parameters.flat.to(device), layout_of(parameters)), plan)
    for name, buffer in buffers.items():
        state.buffers[name].copy_(buffer)
    return state


def require_fit(sae: SparseAutoencoder, plan: Plan) -> None:
    """Refuse an SAE of other sizes than the plan's.

    Raises:
        InputError: it has others.
    """
    layout = plan.layout
    found, wanted = (sae.d_in, sae.d_sae, sae.d_out), (layout.d_in, layout.d_sae, layout.d_out)
    if found != wanted or ("W_skip" in sae.extra) != ("W_skip" in layout.extra) or sae.config.arch != plan.sae.arch:
        raise InputError(
            f"train.init_from is {sae}, of [d_in, d_sae, d_out] {list(found)}, but {plan.sae.arch} of {list(wanted)} is to "
            "be trained: an SAE begins only from one of its own kind. Name another SAE, or leave train.init_from empty."
        )


@torch.no_grad()
def firing(sae: SparseAutoencoder, rows: Iterable[Tensor]) -> Bool[Tensor, "d_sae"]:
    """Which latents are above 0 on some of all raw rows, which come in batches ``[n, width]``."""
    fires = torch.zeros(sae.d_sae, dtype=torch.bool, device=sae.W_enc.device)
    for batch in rows:
        for part in torch.split(batch[:, : sae.d_in], max(1, _NUMBERS // sae.d_sae)):
            fires |= (sae.encode(part.to(fires.device)) > 0).any(0)
    return fires


def _draw_anew(parameters: Parameters, dead: Tensor, plan: Plan, x: Tensor, y: Tensor | None, losses: Tensor) -> None:
    """Put in place of dead latents those with which a cold run would begin on badly rebuilt rows."""
    drawn = draw_by_loss(losses, len(losses), plan.seed)
    if drawn is None:
        return
    fresh = initial_parameters(plan.sae, plan.layout, plan.seed, x[drawn], None if y is None else y[drawn], leans=True)
    for name in ("encoder", "W_dec", "b_enc"):
        getattr(parameters, name)[dead] = getattr(fresh, name)[dead]
    for name, tensor in parameters.extra.items():
        if name not in SHARED:
            tensor[dead] = fresh.extra[name][dead]


def _losses(sae: SparseAutoencoder, sample: Tensor, output: Scaling, plan: Plan) -> Tensor:
    """Squared error of each row, scaled; 0 for rows without a direction, which no latent could take."""
    d_in, device = plan.layout.d_in, sae.W_enc.device
    found = []
    for rows in torch.split(sample.to(device), max(1, _NUMBERS // sae.d_sae)):
        x, y = rows[:, :d_in], rows[:, d_in:] if rows.shape[1] > d_in else rows
        error = (y.float() - sae(x)) * output.scale.to(device)
        centred = y.float() != output.mean.to(device)
        found.append(error.square().sum(1).where(x.any(1) & centred.any(1), 0.0))
    return torch.cat(found).cpu()


def _cpu(weights: Weights) -> Weights:
    extra = {name: tensor.cpu() for name, tensor in weights.extra.items()}
    return Weights(weights.W_enc.cpu(), weights.b_enc.cpu(), weights.W_dec.cpu(), weights.b_dec.cpu(), extra)


def _with_unit_rows(weights: Weights, scale: Float[Tensor, "d_out"]) -> Weights:
    """The same SAE with decoder rows that have norm 1 once they are scaled, as training holds them.

    Those of an SAE that was trained so, on one hook, have it already. Codes grow as rows shrink: reconstructions stay, but
    where the largest codes are kept, others may be.
    """
    norms: Tensor = torch.linalg.vector_norm(weights.W_dec * scale, dim=1)
    norms = norms.where(norms > 0, 1.0)
    extra = {name: tensor * norms if name in _BY_SIZE else tensor for name, tensor in weights.extra.items()}
    W_enc, b_enc, W_dec = weights.W_enc * norms, weights.b_enc * norms, weights.W_dec / norms[:, None]
    return replace(weights, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, extra=extra)
