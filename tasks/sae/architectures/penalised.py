"""Architectures that pay for active latents: squared error plus a penalty, with codes from a level on each pre-activation.

An architecture says what its codes are and what they cost. Squared error, gradients by autograd and sums over workers are
shared. One that also has a step at active latents only takes that step once few latents are active.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear
from typing_extensions import override

from tasks.sae.architectures.base import Architecture, StepBatch, StepSums
from tasks.sae.architectures.initial_size import shrink_decoder
from tasks.sae.architectures.l0_controller import controller_buffers, steer
from tasks.sae.architectures.row_blocks import at_once, in_blocks
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.backend import ByLatent
from tasks.sae.latent_parallel import all_reduced
from tasks.sae.losses import squared_error
from tasks.sae.mesh import Mesh, all_reduce_over_mesh
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Weights


class PenalisedCodes(NamedTuple):
    """What an architecture makes of a worker's rows."""

    codes: Float[Tensor, "n d_sae"]
    penalty: Float[Tensor, ""]
    """Sum over rows of what this worker's latents add to the squared error."""
    n_entries: Tensor | None = None
    """How many pre-activations the active step would look at; empty: as many as there are active latents."""
    shared: Tensor | None = None
    """Sum over rows of what is added that follows from the latents of all workers, and is the same on all."""


class StepOutcome(NamedTuple):
    """What a step came to, over all workers' rows."""

    sums: StepSums
    by_latent: ByLatent | None
    """The gradients of encoder, W_dec and b_enc, where they are not written yet."""
    n_entries: Tensor
    """How many pre-activations the active step looks at, or would have."""


class BatchTotal:
    """A sum over all workers' rows and latents, made once a step, however often the step is begun again."""

    def __init__(self, mesh: Mesh, encode: Callable[[slice], Tensor]) -> None:
        """``encode`` gives a block's pre-activations."""
        self._mesh, self._encode = mesh, encode
        self._found: Tensor | None = None
        self.blocks: Sequence[slice] = ()
        """Of rows, that this worker takes one after the other."""

    def __call__(self, pre_acts: Tensor, sums: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``sums`` gives of pre-activations, added up; ``pre_acts`` are those of the block at hand."""
        if self._found is None:
            with torch.no_grad():
                blocks = map(self._encode, self.blocks) if len(self.blocks) > 1 else [pre_acts]
                found = reduce(torch.add, map(sums, blocks))
            all_reduce_over_mesh(self._mesh, found)
            self._found = found
        return self._found


@dataclass(frozen=True, slots=True)
class LossContext:
    """What the loss of some rows may look at beside the parameters."""

    config: SAEConfig
    batch: StepBatch
    mesh: Mesh
    y: Float[Tensor, "n d_out"]
    """Scaled target."""
    rest: Float[Tensor, "n d_out"] | Float[Tensor, "d_out"]
    """What is added to the decoded latents, as a constant."""
    n_rows: int
    """Rows of the whole batch, of all workers."""
    total: BatchTotal
    """A sum over the whole batch, where the penalty does not add up row by row."""

    def whole(self, decoded: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """What the latents of all workers decode to, differentiable by this worker's."""
        return _whole(decoded, self.mesh)


class _RowSums(NamedTuple):
    """What a dense step tells of some rows, summed over them; of these workers' latents but for the first two."""

    error: Float[Tensor, ""]
    shared: Float[Tensor, ""]
    """What the workers of all latents pay together: the squared error, and what follows from all latents."""
    penalty: Float[Tensor, ""]
    active: Float[Tensor, "d_own"]
    """Rows on which each latent is active."""
    n_entries: Float[Tensor, ""]


class Penalised(Architecture):
    """Squared error plus a penalty, a mean over rows, differentiated by autograd."""

    unit_norm_decoder = False
    max_grad_norm: float | None = 1.0
    """The first steps' gradients are far larger than the last ones', and Adam remembers their squares for a thousand steps.

    On 5M rows of 2,048 known features (d_in 256, d_sae 512, k 8), without and with clipping, explained variance and F1:
    gated .834 and .758, .838 and .820; l1_2023 .799 and .583, .814 and .565; p_anneal .814 and .604, .825 and .631.
    """
    active_below = 0.0
    """Share of latents that the step before looked at, or would have, below which a step is the active one; 0: never."""
    first_coefficient: float | None = None
    """The sparsity coefficient from which the search for it starts, where there is one to be found."""

    starts_small = False
    """Decoder rows, which are free to grow, start far below norm 1."""

    @override
    def start(
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        if self.starts_small:
            shrink_decoder(parameters)

    def given_coefficient(self, config: SAEConfig) -> float | None:
        """The sparsity coefficient of the settings."""
        return config.l1_coefficient

    @override
    def steers(self, config: SAEConfig) -> bool:
        return self.first_coefficient is not None and self.given_coefficient(config) is None

    @override
    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        first = self.first_coefficient
        found = controller_buffers(first) if first is not None and self.steers(config) else {}
        return found | {"density": torch.ones(1, dtype=torch.float64)} if self.active_below > 0 else found

    def coefficient(self, config: SAEConfig, batch: StepBatch) -> float | Tensor:
        """The sparsity coefficient in force."""
        given = self.given_coefficient(config)
        return batch.buffers["coefficient"][0].to(batch.scaling.mean.dtype) if given is None else given * batch.sparsity

    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        """Codes and their penalty, differentiable with respect to ``p`` and ``pre_acts``."""
        raise NotImplementedError

    @override
    def gradients(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> tuple[StepSums, ByLatent | None]:
        is_active = self.active_below > 0 and float(batch.buffers["density"]) < self.active_below
        step = self.active_step if is_active else self.dense_step
        sums, by_latent, n_entries = step(config, parameters, out, batch, mesh)
        if self.active_below > 0:
            batch.buffers["density"].copy_(n_entries.double() / (sums.n_rows * config.d_sae))
        if self.steers(config):
            steer(batch, sums.n_active / sums.n_rows, config.k)
        return sums, by_latent

    def active_step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> StepOutcome:
        """The gradients that ``dense_step`` gives, found at active latents only."""
        raise NotImplementedError

    def dense_step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> StepOutcome:
        """The gradients of the loss by autograd, all written into ``out``.

        Raises:
            InputError: there is no memory for a single row, or for all of them where other workers hold other latents.
        """
        x, y = batch.rows(batch.raw, parameters.encoder.shape[1])
        leaves, n_rows = _leaves(parameters), len(x) * mesh.data.world_size
        total = BatchTotal(mesh, lambda block: _encoded(x[block], leaves, batch.bf16))

        def differentiated(blocks: Sequence[slice]) -> _RowSums:
            total.blocks, parts = blocks, []
            for block in blocks:
                at = LossContext(config, batch, mesh, y[block], _rest(x[block], leaves), n_rows, total)
                parts.append(self._differentiated(at, x[block], leaves, out, add=block.start > 0))
            return _RowSums(*(reduce(torch.add, sums) for sums in zip(*parts, strict=True)))

        if mesh.latents.world_size > 1:  # they wait on the way for what the latents of all decode to
            found = at_once(len(x), differentiated)
        else:
            found = in_blocks(len(x), batch.scratch, differentiated)
        return _summed(out, found, n_rows, mesh)

    def _differentiated(self, at: LossContext, x: Tensor, leaves: Parameters, out: Parameters, *, add: bool) -> _RowSums:
        """Write the gradients of the loss of some rows into ``out``, or add them to what is there."""
        bf16 = at.batch.bf16
        found = self.codes(replace(at, rest=at.rest.detach()), leaves, _encoded(x, leaves, bf16))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            y_hat = found.codes @ leaves.W_dec
        error = squared_error(at.y, at.whole(y_hat.to(x.dtype)) + at.rest)
        shared = error if found.shared is None else error + found.shared
        _differentiate((shared + found.penalty) / at.n_rows, leaves, out, add=add)
        active = (found.codes > 0).sum(0).to(x.dtype)
        n_entries = active.sum() if found.n_entries is None else found.n_entries.to(x.dtype)
        return _RowSums(error.detach(), shared.detach(), found.penalty.detach(), active, n_entries)

    @override
    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights) -> Float[Tensor, "n d_sae"]:
        return pre_acts.relu()


def _encoded(x: Tensor, leaves: Parameters, bf16: bool) -> Tensor:
    """Differentiable pre-activations of scaled rows."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        pre_acts = linear(x, leaves.encoder, leaves.b_enc)
    return pre_acts.to(x.dtype)


def _rest(x: Tensor, leaves: Parameters) -> Tensor:
    """What is added to the decoded latents."""
    return leaves.b_dec + linear(x, leaves.extra["W_skip"]) if "W_skip" in leaves.extra else leaves.b_dec


def _whole(decoded: Tensor, mesh: Mesh) -> Tensor:
    """The sum over workers that hold other latents, with the derivative of this one's part."""
    if mesh.latents.world_size == 1:
        return decoded
    return all_reduced(decoded.detach(), mesh.latents) + (decoded - decoded.detach())


def _leaves(parameters: Parameters) -> Parameters:
    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_()

    return replace(
        parameters,
        encoder=leaf(parameters.encoder),
        W_dec=leaf(parameters.W_dec),
        b_enc=leaf(parameters.b_enc),
        b_dec=leaf(parameters.b_dec),
        extra={name: leaf(tensor) for name, tensor in parameters.extra.items()},
    )


def _parts(parameters: Parameters) -> list[Tensor]:
    return [parameters.encoder, parameters.W_dec, parameters.b_enc, parameters.b_dec, *parameters.extra.values()]


def _differentiate(loss: Tensor, leaves: Parameters, out: Parameters, *, add: bool) -> None:
    """Write the gradients of the loss into ``out``, or add them; 0 where it does not depend on a parameter."""
    gradients = torch.autograd.grad(loss, _parts(leaves), allow_unused=True, materialize_grads=True)
    for target, gradient in zip(_parts(out), gradients, strict=True):
        if add:
            target.add_(gradient)
        else:
            target.copy_(gradient)


def _summed(out: Parameters, found: _RowSums, n_rows: int, mesh: Mesh) -> StepOutcome:
    """One sum over workers of the gradients and all statistics."""
    error, active = found.error, found.active
    own = torch.stack([found.penalty, active.sum(), found.n_entries])
    penalty, n_active, n_entries = all_reduced(own, mesh.latents)
    loss = (found.shared + penalty) / n_rows
    if mesh.data.world_size == 1:
        return StepOutcome(StepSums(n_rows, loss, error, n_active, active > 0), None, n_entries)
    sums = torch.cat([out.flat, active, torch.stack([loss, error, n_active, n_entries])])
    mesh.data.all_reduce(sums)
    out.flat.copy_(sums[: len(out.flat)])
    counts = sums[len(out.flat) : -4]
    loss, error, n_active, n_entries = sums[-4:]
    return StepOutcome(StepSums(n_rows, loss, error, n_active, counts > 0), None, n_entries)
