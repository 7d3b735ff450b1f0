"""What workers have to tell each other during a step, as interfaces that know no network.

Workers form a mesh. Those of one row of it hold the same latents and see other rows of the batch, those of one column see
the same rows and hold other latents: encoder columns, decoder rows and all else that belongs to a latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import override

from tasks.sae.kernels.types import Entries


@dataclass(slots=True)
class Traffic:
    """What a worker's communication has cost so far."""

    seconds: float = 0.0
    sent_bytes: float = 0.0


@runtime_checkable  # tests execute annotations
class ProcessGroup(Protocol):
    """Collectives over some workers; each of them must call them in the same order."""

    @property
    def world_size(self) -> int:
        """Number of workers."""
        ...

    @property
    def rank(self) -> int:
        """This worker's place among them."""
        ...

    def all_gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Every worker's tensors, which have equal shapes, joined along their first axis by rank."""
        ...

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers."""
        ...

    def reduce_scatter(self, tensor: Tensor, axis: int = 0) -> Tensor:
        """The sum of a tensor over all workers, of which each gets its part along ``axis``; parts are equal."""
        ...

    def all_gather_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Fill in what the others have: of each tensor, worker r brings the r-th of equal parts along the first axis."""
        ...

    def share_memory(self, tensor: Tensor) -> Tensor | None:
        """The first worker's numbers in memory that all of them read and write; None where there is no such memory.

        All come here with tensors of equal sizes. What each of them writes the others see after a ``barrier``.
        """
        ...

    def barrier(self) -> None:
        """Wait until all are here, if they share memory; where they send, each waits for what it is sent."""
        ...


@runtime_checkable
class Mesh(Protocol):
    """All workers, as each of them sees them: in two groups that it is a member of."""

    traffic: Traffic

    @property
    def data(self) -> ProcessGroup:
        """The workers that hold the same latents and see other rows."""
        ...

    @property
    def latents(self) -> ProcessGroup:
        """The workers that see the same rows and hold other latents, in the order of latents."""
        ...


class OneProcess(ProcessGroup, Mesh):
    """The mesh of one worker, and both of its groups: there is nothing to send."""

    world_size, rank = 1, 0

    def __init__(self) -> None:
        """Begin with nothing sent."""
        self.traffic = Traffic()

    @property
    @override
    def data(self) -> "OneProcess":
        return self

    @property
    @override
    def latents(self) -> "OneProcess":
        return self

    @override
    def all_gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    @override
    def all_reduce(self, tensor: Tensor) -> None:
        return None

    @override
    def reduce_scatter(self, tensor: Tensor, axis: int = 0) -> Tensor:
        return tensor

    @override
    def all_gather_in_place(self, tensors: Sequence[Tensor]) -> None:
        return None

    @override
    def share_memory(self, tensor: Tensor) -> Tensor | None:
        return None

    @override
    def barrier(self) -> None:
        return None


def all_reduce_over_mesh(mesh: Mesh, tensor: Tensor) -> None:
    """Replace a tensor by its sum over the whole mesh."""
    mesh.data.all_reduce(tensor)
    mesh.latents.all_reduce(tensor)


def optimizer_shard(group: ProcessGroup, d_sae: int) -> tuple[int, int]:
    """First and end of the latents whose weights this worker updates, of those that all workers of ``group`` hold.

    Where the latents cannot be dealt evenly every worker updates them all.
    """
    if d_sae % group.world_size:
        return 0, d_sae
    size = d_sae // group.world_size
    return group.rank * size, (group.rank + 1) * size


def all_gather_entries(group: ProcessGroup, entries: Entries, most: int | None = None) -> Entries:
    """The active latents of all workers' rows, in the order of ranks; every worker has the same number of rows.

    Workers have different numbers of entries, so all send as many as the one with most: their counts go first, unless it is
    known that no worker has more than ``most``.
    """
    if group.world_size == 1:
        return entries
    entries = entries.without_padding()
    per_row, coded = entries.start.diff(), (entries.values, entries.latents)
    if most is None:
        (per_row,) = group.all_gather([per_row])
        room = int(per_row.view(group.world_size, -1).sum(1).max())
        values, latents = group.all_gather([padded(tensor, room) for tensor in coded])
    else:
        room = most
        per_row, values, latents = group.all_gather([per_row, *(padded(tensor, room) for tensor in coded)])
    counts = per_row.view(group.world_size, -1).sum(1).tolist()
    pieces = [slice(rank * room, rank * room + count) for rank, count in enumerate(counts)]
    start = torch.cat([per_row.new_zeros(1), per_row.cumsum(0)])
    return Entries(torch.cat([values[piece] for piece in pieces]), torch.cat([latents[piece] for piece in pieces]), start)


def padded(tensor: Tensor, size: int) -> Tensor:
    """A tensor's numbers, followed by zeros up to ``size``."""
    found = tensor.new_zeros(size)
    found[: len(tensor)] = tensor
    return found
