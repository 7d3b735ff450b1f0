"""What a backend's operations take and give: the active latents of many rows, and what follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Entries:
    """The latents that a training step selects in ``n`` rows, row after row, in no order within a row.

    They stay tensors on the step's device, since the gradients are sums over them. The codes of a finished SAE are
    ``tasks.encode.codes.CSRCodes``: above 0, sorted, and in the machine's memory. Selection here keeps NaN, which compares
    with nothing, so that a loss shows it.
    """

    values: Float[Tensor, "m"]
    latents: Int[Tensor, "m"]
    """int32."""
    start: Int[Tensor, "n_plus_1"]
    """int64: the entries of row r are ``start[r]:start[r + 1]``."""
    padded: bool = False
    """Whether entries of value 0 may fill up what was not found, of any latent: so the host need not ask a GPU how many
    there are. They add nothing to any sum."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.start) - 1

    @property
    def rows(self) -> Int[Tensor, "m"]:
        """Row of each entry, int32."""
        counts = self.start.diff()
        rows = torch.arange(self.n, dtype=torch.int32, device=counts.device)
        return rows.repeat_interleave(counts, output_size=len(self.latents))

    @property
    def count(self) -> Int[Tensor, ""]:
        """Number of entries without padding, int64."""
        return (self.values != 0).sum() if self.padded else self.start[-1]

    def fired(self, d_sae: int) -> Bool[Tensor, "{d_sae}"]:
        """Latents that have an entry."""
        latents = self.latents.long()
        if self.padded:
            latents = latents.where(self.values != 0, d_sae)
        fired = torch.zeros(d_sae + self.padded, dtype=torch.bool, device=latents.device)
        fired[latents] = True
        return fired[:d_sae]

    def without_padding(self) -> "Entries":
        """The same without what only fills up, for which a GPU is waited for."""
        return self.only(self.values != 0) if self.padded else self

    def sum_by_latent(self, values: Float[Tensor, "m"], d_sae: int) -> Float[Tensor, "{d_sae}"]:
        """Sums over each latent's entries of what stands beside them."""
        return values.new_zeros(d_sae).index_add_(0, self.latents, values)

    def of_rows(self, first: int, n: int) -> "Entries":
        """The entries of ``n`` rows, from row ``first`` on."""
        start = self.start[first : first + n + 1]
        low, high = int(start[0]), int(start[-1])
        return Entries(self.values[low:high], self.latents[low:high], start - low, self.padded)

    def only(self, mask: Bool[Tensor, "m"]) -> "Entries":
        """The marked entries, in their order."""
        before = torch.zeros(len(mask) + 1, dtype=torch.int64, device=mask.device)
        torch.cumsum(mask, 0, out=before[1:])
        return Entries(self.values[mask], self.latents[mask], before[self.start])


def joined_entries(blocks: Sequence[Entries]) -> Entries:
    """The entries of the first block's rows, then of the next one's."""
    if len(blocks) == 1:
        return blocks[0]
    counts = torch.cat([block.start.diff() for block in blocks])
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    values, latents = torch.cat([block.values for block in blocks]), torch.cat([block.latents for block in blocks])
    return Entries(values, latents, start, any(block.padded for block in blocks))


def no_entries(n: int, like: Tensor, dtype: torch.dtype) -> Entries:
    """The entries of ``n`` rows of which none has an active latent."""
    none = torch.zeros(0, dtype=dtype, device=like.device)
    return Entries(none, none.to(torch.int32), torch.zeros(n + 1, dtype=torch.int64, device=like.device))


@dataclass(frozen=True, slots=True)
class Coded:
    """Active latents of many rows with what they decode by, in g groups of latents."""

    entries: Entries
    W_dec: Float[Tensor, "d_sae d_out"]
    bounds: tuple[int, ...]
    """End of each group of latents; the last is d_sae. The latents below ``bounds[p]`` are prefix p."""


class Compared(NamedTuple):
    """What rows and their reconstructions differ by; ``DecodedRows`` says what each tensor holds."""

    output_gradient: Float[Tensor, "g n d_out"]
    squared_error: Float[Tensor, "g"]


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """What decoding all rows gives, for g nested prefixes of the latents (TopK: g = 1, and the prefix is all latents).

    The loss is the sum over prefixes p of weight[p] * squared_error[p].
    """

    residual: Callable[[], Tensor]
    """Gives what all latents leave over of the rows that this worker compares; all else here is of all workers' rows."""
    output_gradient: Float[Tensor, "g_times_n d_out"]
    """For each group q of latents, n rows: the loss's gradient on what these latents decode to, the sum over
    p >= q of -2 weight[p] residual_p."""
    d_values: Float[Tensor, "m"] | None
    """The loss's gradient on each entry's value; empty where ``by_latent`` is to find it."""
    squared_error: Float[Tensor, "g"]
    """Sum over rows of ||residual_p||^2, in float64."""
    n_entries: Int[Tensor, ""]
    """Active latents of all workers, int64."""


@dataclass(frozen=True, slots=True)
class Part:
    """One sum over entries for each of the gradients of encoder, W_dec and b_enc.

    With i the latent, r the row and q the group of an entry: dW_dec[i] += value * output_gradient[q * n + r],
    d_encoder[i] += d_value * x[r], db_enc[i] += d_value.
    """

    entries: Entries
    d_values: Float[Tensor, "m"] | None
    """Empty for W_dec[i] @ output_gradient[q * n + r]."""
    output_gradient: Float[Tensor, "g_times_n d_out"]
    x: Float[Tensor, "n d_in"]
    bounds: tuple[int, ...]
    """End of each group of latents; the last is d_sae."""

    def within(self, low: int, high: int) -> "Part":
        """The sums for the latents from ``low`` to ``high`` only, which are numbered from 0 then."""
        mask = (self.entries.latents >= low) & (self.entries.latents < high)
        entries = self.entries.only(mask)
        own = Entries(entries.values, entries.latents - low, entries.start)
        bounds = tuple(min(max(bound, low), high) - low for bound in self.bounds)
        d_values = None if self.d_values is None else self.d_values[mask]
        return Part(own, d_values, self.output_gradient, self.x, bounds)


@dataclass(frozen=True, slots=True)
class AddedGradients:
    """What is added to latents' gradients beside the sums over entries; empty for nothing."""

    radial: Float[Tensor, "d_own"] | None = None
    """The gradient of W_dec[i] gets radial[i] * W_dec[i]."""
    bias: Float[Tensor, "d_own"] | None = None
    """The gradient of b_enc[i] gets bias[i]."""

    def within(self, low: int, high: int) -> "AddedGradients":
        """That of the latents from ``low`` to ``high`` only."""
        return AddedGradients(*(None if given is None else given[low:high] for given in (self.radial, self.bias)))


NOTHING_ADDED = AddedGradients()


class Copies(NamedTuple):
    """Where an update puts weights in bfloat16 beside the weights themselves; None: nowhere."""

    encoder: Tensor | None = None
    W_dec: Tensor | None = None


NO_COPIES = Copies()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamStep:
    """Settings of one update by Adam (https://arxiv.org/abs/1412.6980), as ``torch.optim.Adam`` takes it."""

    lr: float
    betas: tuple[float, float]
    eps: float
    step: int
    """Number of this update, the first being 1."""
    unit_norm: bool = False
    """Hold decoder rows at norm 1: the gradient's part along each row is dropped first, the row renormalised after."""
    copies: Copies = NO_COPIES
    """Of all latents, written by a backend that ``copies_weights`` where their gradients are nowhere in memory."""
