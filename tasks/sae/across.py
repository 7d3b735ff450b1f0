"""What a step does together with the workers that hold the other latents of the same rows.

Each holds d_sae / n latents in a row, and numbers its own from 0.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.sae.entries import Entries, Rows
from tasks.sae.exchange import Exchange, Group
from tasks.sae.sparse import decode_groups, decode_rows, select_top_k


def own_bounds(bounds: tuple[int, ...], d_own: int, latents: Group) -> tuple[int, ...]:
    """Ends of groups of latents, in the numbering of this worker's ``d_own``."""
    first = d_own * latents.rank
    return tuple(min(max(bound - first, 0), d_own) for bound in bounds)


def decode_together(
    target: Float[Tensor, "n_own d_out"],
    entries: Entries,
    W_dec: Float[Tensor, "d_own d_out"],
    weight: Float[Tensor, "g"],
    bounds: tuple[int, ...],
    exchange: Exchange,
) -> Rows:
    """``decode_rows`` of all workers' rows by all workers' latents; what belongs to rows has the same bits on all of them.

    Each worker decodes its own rows, which it shares with those that hold other latents, and shows them to the others.

    Args:
        target: what the latents have to rebuild, of this worker's rows.
        entries: this worker's active latents, of all rows.
        W_dec: their decoder rows.
        weight: of each prefix's squared error in the loss.
        bounds: ends of the prefixes, in this worker's numbering.
        exchange: the workers.
    """
    own = entries if exchange.world_size == 1 else entries.of_rows(exchange.rank * len(target), len(target))
    decoded = None
    if exchange.latents.world_size > 1:
        decoded = decode_groups(own, W_dec, bounds)
        exchange.latents.add_up(decoded)
    rows = decode_rows(target, own, W_dec, weight, bounds, decoded)
    return rows if exchange.world_size == 1 else _of_all_rows(rows, entries, exchange)


def _of_all_rows(rows: Rows, entries: Entries, exchange: Group) -> Rows:
    """The same of all workers' rows, from what each found for its own ones."""
    n_workers, d_out = exchange.world_size, rows.residual.shape[1]
    n_own, n_groups = entries.n // n_workers, len(rows.squared_error)
    ends = entries.start[::n_own].tolist()
    counts = [end - start for start, end in pairwise(ends)]
    d_values = rows.d_values.new_zeros(max(counts))
    d_values[: len(rows.d_values)] = rows.d_values
    gradient, d_values, error = exchange.gather([rows.output_gradient, d_values, rows.squared_error])
    if n_groups > 1:  # workers follow each other within a group
        gradient = gradient.view(n_workers, n_groups, n_own, d_out).transpose(0, 1).reshape(-1, d_out)
    pieces = [padded[:count] for padded, count in zip(d_values.view(n_workers, -1), counts, strict=True)]
    return Rows(rows.residual, gradient, torch.cat(pieces), error.view(n_workers, -1).sum(0))


def largest_of_rows(entries: Entries, k: int, latents: Group) -> Entries:
    """Of this worker's k largest of each row, those that are among the k largest of all workers'."""
    if latents.world_size == 1:
        return entries
    values, numbers = _in_columns(entries, k)
    (found,) = latents.gather([values])
    rivals = found.view(latents.world_size, entries.n, k).transpose(0, 1).flatten(1)
    chosen = select_top_k(rivals, k, values.dtype)  # of equal numbers all workers choose the same
    column = chosen.latents - latents.rank * k
    own = (column >= 0) & (column < k)
    kept = chosen.only(own)
    return Entries(kept.values, numbers[kept.rows, column[own]], kept.start)


def _in_columns(entries: Entries, k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values and latents of each row side by side; where a row has fewer than ``k``, the values are minus infinity."""
    shape = (entries.n, k)
    if len(entries.values) == entries.n * k:
        return entries.values.view(shape), entries.latents.view(shape)
    rows = entries.rows.long()
    place = torch.arange(len(rows), device=rows.device) - entries.start[rows]
    values, numbers = entries.values.new_full(shape, -torch.inf), entries.latents.new_zeros(shape)
    values[rows, place], numbers[rows, place] = entries.values, entries.latents
    return values, numbers


def largest_of_batch(entries: Entries, count: int, latents: Group) -> Entries:
    """Of this worker's entries, those that are among the ``count`` largest of all workers'; all where there are fewer."""
    values, own = entries.values, slice(0, len(entries.values))
    if latents.world_size > 1:
        (counts,) = latents.gather([torch.tensor([len(values)], device=values.device)])
        padded = values.new_full((int(counts.max()),), -torch.inf)
        padded[: len(values)] = values
        (values,) = latents.gather([padded])
        first = latents.rank * len(padded)
        own = slice(first, first + len(entries.values))
    if len(values) <= count:
        return entries
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.topk(count, sorted=False).indices] = True
    return entries.only(mask[own])


def total(value: Tensor, latents: Group) -> Tensor:
    """Its sum over the workers, as a tensor of its own."""
    found = value.clone()
    latents.add_up(found)
    return found
