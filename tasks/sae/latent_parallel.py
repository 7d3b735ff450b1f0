"""What a step does together with the workers that hold the other latents of the same rows.

Each holds d_sae / n latents in a row, and numbers its own from 0.
"""

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import Coded, DecodedRows, Entries
from tasks.sae.mesh import Mesh, ProcessGroup, padded


def shard_bounds(bounds: tuple[int, ...], d_own: int, latents: ProcessGroup) -> tuple[int, ...]:
    """Ends of groups of latents, in the numbering of this worker's ``d_own``."""
    first = d_own * latents.rank
    return tuple(min(max(bound - first, 0), d_own) for bound in bounds)


def row_shard(rows: Float[Tensor, "n width"], latents: ProcessGroup) -> Float[Tensor, "n_own width"]:
    """The rows that this worker compares with what all latents decode to, of those that ``latents`` all see."""
    return rows.chunk(latents.world_size)[latents.rank]


def decode_on_mesh(
    target: Float[Tensor, "n_own d_out"], coded: Coded, weight: Float[Tensor, "g"], mesh: Mesh, *, pull: bool = True
) -> DecodedRows:
    """``decode_rows`` of all workers' rows by all workers' latents; what belongs to rows has the same bits on all of them.

    Each worker decodes its own rows, which it shares with those that hold other latents, and shows them to the others.

    Args:
        target: what the latents have to rebuild, of this worker's stretch of its rows.
        coded: this worker's active latents, of all rows, and its decoder rows; groups end in its numbering.
        weight: of each prefix's squared error in the loss.
        mesh: of all workers.
        pull: as for ``decode_rows``.
    """
    entries, own = coded.entries, coded
    if mesh.data.world_size > 1:
        n_own = entries.n // mesh.data.world_size
        own = replace(coded, entries=entries.of_rows(mesh.data.rank * n_own, n_own))
    if mesh.latents.world_size == 1:
        rows = backend_for(target).decode_rows(target, own, weight, pull=pull)
    else:
        rows = _decode_parts(target, own, weight, mesh.latents)
        if pull:
            rows = replace(rows, d_values=backend_for(own.W_dec).pull_back(rows.output_gradient, own))
    return rows if mesh.data.world_size == 1 else _of_all_rows(rows, entries, mesh.data)


def _decode_parts(target: Tensor, coded: Coded, weight: Tensor, latents: ProcessGroup) -> DecodedRows:
    """``decode_rows`` where others have latents of the same rows: each compares a stretch of them, for all."""
    decoded = latents.reduce_scatter(backend_for(coded.W_dec).decode_groups(coded), axis=1)
    compared = backend_for(target).compare(target, decoded, weight)
    gradient, error, count = latents.all_gather(
        [compared.output_gradient.transpose(0, 1), compared.squared_error[None], coded.entries.count[None]]
    )
    gradient = gradient.transpose(0, 1).reshape(len(coded.bounds) * coded.entries.n, -1)
    return DecodedRows(lambda: target - decoded.sum(0), gradient, None, error.sum(0), count.sum())


def _of_all_rows(rows: DecodedRows, entries: Entries, data: ProcessGroup) -> DecodedRows:
    """What decoding gives for all workers' rows, from what each worker found for its own."""
    n_workers, d_out = data.world_size, rows.output_gradient.shape[1]
    n_own, n_groups = entries.n // n_workers, len(rows.squared_error)
    counts = [end - start for start, end in pairwise(entries.start[::n_own].tolist())]
    pulled = [] if rows.d_values is None else [padded(rows.d_values, max(counts))]
    told = [rows.output_gradient, rows.squared_error, rows.n_entries[None], *pulled]
    gradient, error, n_entries, *found = data.all_gather(told)
    if n_groups > 1:  # workers follow each other within a group
        gradient = gradient.view(n_workers, n_groups, n_own, d_out).transpose(0, 1).reshape(-1, d_out)
    pieces = [of[:count] for all_of in found for of, count in zip(all_of.view(n_workers, -1), counts, strict=True)]
    d_values = torch.cat(pieces) if found else None
    return DecodedRows(rows.residual, gradient, d_values, error.view(n_workers, -1).sum(0), n_entries.sum())


def largest_of_rows(entries: Entries, k: int, latents: ProcessGroup, dtype: torch.dtype) -> Entries:
    """Of this worker's k largest of each row, those that are among the k largest of all workers'.

    ``dtype`` is one that holds the values exactly, in which they are sent.
    """
    if latents.world_size == 1:
        return entries
    entries = entries.without_padding()
    (found,) = latents.all_gather([_in_columns(entries, k, dtype)])
    rivals = found.view(latents.world_size, entries.n, k)
    return backend_for(entries.values).keep_largest(entries, rivals, latents.rank)


def _in_columns(entries: Entries, k: int, dtype: torch.dtype) -> Float[Tensor, "n k"]:
    """Values of each row side by side; where a row has fewer than ``k``, minus infinity after them."""
    shape = (entries.n, k)
    if len(entries.values) == entries.n * k:
        return entries.values.to(dtype).view(shape)
    rows = entries.rows.long()
    place = torch.arange(len(rows), device=rows.device) - entries.start[rows]
    values = entries.values.new_full(shape, -torch.inf, dtype=dtype)
    values[rows, place] = entries.values.to(dtype)
    return values


def largest_of_batch(entries: Entries, count: int, latents: ProcessGroup) -> Entries:
    """Of this worker's entries, those that are among the ``count`` largest of all workers'; all where there are fewer."""
    values, own = entries.values, slice(0, len(entries.values))
    if latents.world_size > 1:
        (counts,) = latents.all_gather([torch.tensor([len(values)], device=values.device)])
        padded = values.new_full((int(counts.max()),), -torch.inf)
        padded[: len(values)] = values
        (values,) = latents.all_gather([padded])
        first = latents.rank * len(padded)
        own = slice(first, first + len(entries.values))
    if len(values) <= count:
        return entries
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.topk(count, sorted=False).indices] = True
    return entries.only(mask[own])


def all_reduced(value: Tensor, latents: ProcessGroup) -> Tensor:
    """The sum of a tensor over all workers, as a new tensor."""
    found = value.clone()
    latents.all_reduce(found)
    return found
