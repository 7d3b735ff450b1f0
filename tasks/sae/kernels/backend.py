"""What a backend of the training step does: selection, decoding, and gradients that touch active latents only.

All backends give the same numbers to rounding, and the same bits whatever the number of threads. ``tests/sae/kernels``
holds each of them to that. What is selected may be padded (``Entries.padded``) but for ``select_above``.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.sae.kernels.adam import fused_adam
from tasks.sae.kernels.types import NOTHING_ADDED, AdamStep, AddedGradients, Coded, Compared, DecodedRows, Entries, Part
from tasks.sae.parameters import Parameters


@runtime_checkable  # tests execute annotations
class ByLatent(Protocol):
    """The entries of one or several parts grouped by latent: what both weights' gradients are sums over."""

    def write(self, W_dec: Float[Tensor, "d_sae d_out"], out: Parameters) -> None:
        """Overwrite the gradients of encoder, W_dec and b_enc in ``out``; nothing else of it is touched."""
        ...

    def adam(
        self, parameters: Parameters, exp_avg: Parameters, exp_avg_sq: Parameters, settings: AdamStep
    ) -> Float[Tensor, ""]:
        """Update encoder, W_dec and b_enc and their two moments in place; the squared norm of their gradient.

        Latents without entries are updated too, by their momentum. With ``unit_norm`` the gradient is the one left
        after dropping its part along each decoder row.
        """
        ...


@runtime_checkable
class SelectsOfBatch(Protocol):
    """A backend that finds the largest of a whole batch at once, and not by guesses at their level, which ask the device."""

    def select_of_batch(self, pre_acts: Float[Tensor, "n d_sae"], count: int, dtype: torch.dtype) -> Entries:
        """The positive ones among the ``count`` largest pre-activations of all rows, in ``dtype``; a NaN is the largest.

        Of equal ones those of the first rows are chosen, and in a row those of the first latents.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """One implementation of the operations that a training step needs at active latents."""

    name: str
    """As tests and logs call it."""
    copies_weights: bool = False
    """Whether ``ByLatent.adam`` writes ``AdamStep.copies``, for products and decoding in bfloat16."""

    def takes(self, device: str, dtype: torch.dtype) -> bool:
        """Whether the operations run on tensors of this kind of device (``cpu``, ``cuda``) and this precision."""
        ...

    def select_top_k(self, pre_acts: Float[Tensor, "n d_sae"], k: int, dtype: torch.dtype) -> Entries:
        """The positive ones among the ``k`` largest pre-activations of each row; among ties the choice is free.

        Values come in ``dtype``. A row with a NaN has a NaN among its values.
        """
        ...

    def select_columns(
        self, pre_acts: Float[Tensor, "n d_sae"], columns: Int[Tensor, "c"], k: int, dtype: torch.dtype
    ) -> Entries:
        """As ``select_top_k`` among some columns only, such as those of dead latents; entries name latents, not places."""
        ...

    def select_above(
        self, pre_acts: Float[Tensor, "n d_sae"], level: float | Float[Tensor, "d_sae"], dtype: torch.dtype
    ) -> Entries:
        """All pre-activations above ``level``, which is one for all latents or each latent's own, of either sign."""
        ...

    def keep_largest(self, entries: Entries, rivals: Float[Tensor, "n_parts n k"], part: int) -> Entries:
        """Of a worker's entries those among the ``k`` largest of all ``rivals``, where ``rivals[part]`` are its own.

        Rivals stand in the order of the entries. Where a row has fewer than k, minus infinity follows. Of equal rivals some
        are kept, but on all workers by one choice.
        """
        ...

    def decode_rows(
        self, target: Float[Tensor, "n d_out"], coded: Coded, weight: Float[Tensor, "g"], *, pull: bool = True
    ) -> DecodedRows:
        """Decode, compare with the target, and pull the gradient of the loss back to the entries' values.

        Args:
            target: what the latents have to rebuild. Residual p is what prefix p leaves over of it.
            coded: the active latents of each row.
            weight: of each prefix's squared error in the loss.
            pull: give the gradient on values; else it may be left to ``by_latent``, which needs the same memory anyway.
        """
        ...

    def decode_groups(self, coded: Coded) -> Float[Tensor, "g n d_out"]:
        """What each group of latents decodes to."""
        ...

    def compare(
        self, target: Float[Tensor, "n d_out"], decoded: Float[Tensor, "g n d_out"], weight: Float[Tensor, "g"]
    ) -> Compared:
        """Hold what each group of latents decodes to against what prefixes of the groups have to rebuild."""
        ...

    def pull_back(self, output_gradient: Float[Tensor, "g_times_n d_out"], coded: Coded) -> Float[Tensor, "m"]:
        """The loss's gradient on each entry's value, from that on what its group of latents decodes to."""
        ...

    def by_latent(self, parts: Sequence[Part], own: tuple[int, int], added: AddedGradients = NOTHING_ADDED) -> ByLatent:
        """Group the entries of all parts by latent.

        Args:
            parts: of the sums that the gradients are.
            own: first and end of the latents to look at, which are numbered from 0 in what is returned.
            added: to the gradients of these latents.
        """
        ...

    def adam_rows(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        exp_avg: list[Tensor],
        exp_avg_sq: list[Tensor],
        settings: AdamStep,
    ) -> None:
        """Adam's update of some rows, in place, by gradients that are in memory; torch's own, unless a backend has another.

        ``settings.unit_norm`` is left to the caller.
        """
        fused_adam(parameters, gradients, exp_avg, exp_avg_sq, settings)
