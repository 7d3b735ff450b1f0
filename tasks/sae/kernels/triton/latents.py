"""One look at every latent: its gradients are summed up in registers, and used there and then.

First the decoder's, which also gives each entry's ``d_value`` where it is still to be found, then the encoder's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.kernels.adam import fused_adam
from tasks.sae.kernels.backend import ByLatent
from tasks.sae.kernels.triton.grouping import chunks_of, gathered
from tasks.sae.kernels.triton.jit import accumulator, block_of, launch
from tasks.sae.kernels.triton.weights import finish_long, sum_chunks
from tasks.sae.kernels.types import AdamStep, AddedGradients, Part
from tasks.sae.parameters import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What becomes of the gradients of one weight ``[d_own, width]``: they are written to ``out``, or Adam's step is."""

    out: Tensor
    weights: Tensor | None = None
    exp_avg: Tensor | None = None
    exp_avg_sq: Tensor | None = None
    adam: Tensor | None = None
    squares: Tensor | None = None
    """Gets the squared norm of each latent's gradient where Adam's step is taken."""
    unit_norm: bool = False
    copy: Tensor | None = None
    """Gets the bits of the updated weights in bfloat16, as int16."""


class ChunkedByLatent(ByLatent):
    """``ByLatent`` that never writes a gradient which only Adam is to read, but for the bias's."""

    def __init__(self, parts: Sequence[Part], own: tuple[int, int], added: AddedGradients) -> None:
        self._entries = gathered(parts)
        self._chunks = chunks_of(self._entries.latents, own)
        self._added = added

    @override
    def write(self, W_dec: Float[Tensor, "d_sae d_out"], out: Parameters) -> None:
        d_values = self._decoder(_Target(out=out.W_dec, weights=W_dec.detach().contiguous()))
        self._encoder(_Target(out=out.encoder), d_values, out.b_enc)

    @override
    def adam(
        self, parameters: Parameters, exp_avg: Parameters, exp_avg_sq: Parameters, settings: AdamStep
    ) -> Float[Tensor, ""]:
        W_dec, encoder, b_enc = parameters.W_dec.detach(), parameters.encoder.detach(), parameters.b_enc.detach()
        numbers, dtype = _adam(settings, W_dec), accumulator_dtype(W_dec)
        squares, d_bias = torch.empty(2, len(b_enc), dtype=dtype, device=b_enc.device), torch.empty_like(b_enc)

        def updated(weights: Tensor, first: Tensor, second: Tensor, square: Tensor, copy: Tensor | None) -> _Target:
            bits = None if copy is None else copy.view(torch.int16)
            to = _Target(out=weights, weights=weights, adam=numbers, squares=square, copy=bits)
            return replace(to, exp_avg=first, exp_avg_sq=second)

        decoder = updated(W_dec, exp_avg.W_dec, exp_avg_sq.W_dec, squares[0], settings.copies.W_dec)
        d_values = self._decoder(replace(decoder, unit_norm=settings.unit_norm))
        of_encoder = updated(encoder, exp_avg.encoder, exp_avg_sq.encoder, squares[1], settings.copies.encoder)
        self._encoder(of_encoder, d_values, d_bias)
        fused_adam([b_enc], [d_bias], [exp_avg.b_enc], [exp_avg_sq.b_enc], settings)
        return (squares.sum() + d_bias.square().sum()).to(encoder.dtype)

    def _decoder(self, target: _Target) -> Tensor:
        """Sum up the decoder's gradients; each entry's ``d_value``."""
        entries, radial = self._entries, self._added.radial
        if radial is not None:
            radial = radial.detach().contiguous()
        pulled = torch.empty_like(entries.values) if entries.d_values is None else None
        self._sum(entries.gradient, entries.gradient_rows, entries.values, pulled, radial, target, None)
        d_values = entries.d_values if pulled is None else pulled
        assert d_values is not None
        return d_values

    def _encoder(self, target: _Target, d_values: Tensor, d_bias: Tensor) -> None:
        self._sum(self._entries.x, self._entries.x_rows, d_values, None, None, target, d_bias)
        if self._added.bias is not None:
            d_bias.add_(self._added.bias)

    def _sum(
        self,
        rows: Tensor,
        which: Tensor,
        factors: Tensor,
        pulled: Tensor | None,
        radial: Tensor | None,
        to: _Target,
        totals: Tensor | None,
    ) -> None:
        """The sums over entries of factors times some rows, and of factors, for each latent."""
        chunks, (d_own, width) = self._chunks, to.out.shape
        block = block_of(width)
        part = torch.empty(chunks.n_slots, width, dtype=accumulator_dtype(to.out), device=rows.device)
        part_totals = part.new_empty(chunks.n_slots)
        entries = rows, chunks.order, which, factors, pulled
        ends = to.weights, radial, to.out, totals, to.exp_avg, to.exp_avg_sq, to.adam, to.squares, to.copy
        constants = {
            "CHUNK": chunks.size,
            "BLOCK": block,
            "KIND": accumulator(to.out.dtype),
            "UNIT_NORM": to.unit_norm,
            "num_warps": _n_warps(block),
        }
        places = chunks.start, chunks.latent, chunks.first, chunks.slot
        at_once = max(1, min(8, 8192 // block))
        launch(
            sum_chunks,
            (len(chunks.latent),),
            *entries,
            *places,
            part,
            part_totals,
            *ends,
            d_own,
            width,
            AT_ONCE=at_once,
            PADDED=self._entries.padded,
            **constants,
        )
        if chunks.n_slots:
            launch(finish_long, (d_own,), chunks.start, chunks.slot, part, part_totals, *ends, width, **constants)


def accumulator_dtype(like: Tensor) -> torch.dtype:
    """What sums over numbers of a tensor are held in, as torch calls it."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _n_warps(block: int) -> int:
    """At d 768 eight warps took twice as long as four (an H200)."""
    return 4 if block <= 1024 else 8 if block <= 8192 else 16


def _adam(settings: AdamStep, like: Tensor) -> Tensor:
    """What Adam multiplies by, in the kernels' order: on the device, as kernels take no number in more than float32."""
    beta1, beta2 = settings.betas
    step_size = settings.lr / (1 - beta1**settings.step)
    numbers: list[Any] = [1 - beta1, beta2, 1 - beta2, step_size, (1 - beta2**settings.step) ** -0.5, settings.eps]
    here = torch.tensor(numbers, dtype=accumulator_dtype(like), pin_memory=like.is_cuda)  # else the host waits
    return here.to(like.device, non_blocking=True)
