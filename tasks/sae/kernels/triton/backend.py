"""The operations compiled for GPUs by Triton."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from tasks.sae.kernels.backend import ByLatent
from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.triton import rows, select
from tasks.sae.kernels.triton.jit import INTERPRETED
from tasks.sae.kernels.triton.keys import PRECISIONS
from tasks.sae.kernels.triton.latents import ChunkedByLatent
from tasks.sae.kernels.types import NOTHING_ADDED, AddedGradients, Coded, DecodedRows, Entries, Part


class TritonBackend(TorchBackend):
    """All operations in one look each at the rows or the latents; what remains plain torch's goes through few numbers.

    That is ``compare``, which only workers with other latents of the same rows call, ``keep_largest`` and ``adam_rows``.
    """

    name = "triton"
    copies_weights = True

    @override
    def takes(self, device: str, dtype: torch.dtype) -> bool:
        return (device == "cuda" or (device == "cpu" and INTERPRETED)) and dtype in PRECISIONS

    @override
    def select_top_k(self, pre_acts: Float[Tensor, "n d_sae"], k: int, dtype: torch.dtype) -> Entries:
        return select.top_of(pre_acts, None, min(k, pre_acts.shape[1]), dtype)

    @override
    def select_columns(
        self, pre_acts: Float[Tensor, "n d_sae"], columns: Int[Tensor, "c"], k: int, dtype: torch.dtype
    ) -> Entries:
        return select.top_of(pre_acts, columns.contiguous(), min(k, len(columns)), dtype)

    @override
    def select_above(
        self, pre_acts: Float[Tensor, "n d_sae"], level: float | Float[Tensor, "d_sae"], dtype: torch.dtype
    ) -> Entries:
        return select.above(pre_acts, level, dtype)

    def select_of_batch(self, pre_acts: Float[Tensor, "n d_sae"], count: int, dtype: torch.dtype) -> Entries:
        """As ``SelectsOfBatch`` has it."""
        return select.of_batch(pre_acts, count, dtype)

    @override
    def decode_rows(
        self, target: Float[Tensor, "n d_out"], coded: Coded, weight: Float[Tensor, "g"], *, pull: bool = True
    ) -> DecodedRows:
        return rows.decoded_rows(target, coded, weight, pull=pull)

    @override
    def decode_groups(self, coded: Coded) -> Float[Tensor, "g n d_out"]:
        return rows.decoded_groups(coded)

    @override
    def pull_back(self, output_gradient: Float[Tensor, "g_times_n d_out"], coded: Coded) -> Float[Tensor, "m"]:
        return rows.pulled_back(output_gradient, coded)

    @override
    def by_latent(self, parts: Sequence[Part], own: tuple[int, int], added: AddedGradients = NOTHING_ADDED) -> ByLatent:
        return ChunkedByLatent(parts, own, added)
