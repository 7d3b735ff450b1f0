"""Collectives of workers: through memory that they share on CPUs of one machine, else torch.distributed (gloo, nccl)."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.sae.mesh import Traffic
from tasks.train.shared_memory import join


def _read_as(tensor: Tensor, data: Tensor) -> Tensor:
    """Bytes as rows of what ``tensor`` has; none may lie anywhere in memory, where no number could."""
    return data.view(tensor.dtype).view(-1, *tensor.shape[1:]) if len(data) else tensor.new_empty(tensor.shape)


class TorchProcessGroup:
    """Collectives of some of the workers.

    Bytes are counted as a ring sends them: each worker's part once to each of the others, twice of a sum.
    """

    def __init__(self, group: dist.ProcessGroup | None, traffic: Traffic, *, in_memory: bool = True) -> None:
        """Of a process group (None: of all workers), all of which come here; what is sent is added to ``traffic``.

        Processes that can share memory do, unless they are told not to.
        """
        self._group, self.traffic = group, traffic
        self.world_size, self.rank = dist.get_world_size(group), dist.get_rank(group)
        on_cpus = self.world_size > 1 and dist.get_backend(group) == "gloo"
        self._memory = join(group) if on_cpus and in_memory else None

    def all_gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Every worker's tensors, which have equal shapes, joined along their first axis by rank.

        All go in one message.

        Raises:
            TimeoutError: a worker did not come.
        """
        if self.world_size == 1:
            return list(tensors)
        if self._memory is not None:
            with self._counted(sum(tensor.nbytes for tensor in tensors) * (self.world_size - 1)):
                return self._memory.all_gather(tensors)
        parts = [tensor.contiguous().view(torch.uint8).flatten() for tensor in tensors]
        sent = torch.cat(parts)
        received = sent.new_empty(self.world_size * len(sent))
        with self._counted(len(sent) * (self.world_size - 1)):
            dist.all_gather_single(received, sent, group=self._group)
        pieces = torch.split(received.view(self.world_size, -1), [len(part) for part in parts], dim=1)
        return [_read_as(tensor, piece.flatten()) for piece, tensor in zip(pieces, tensors, strict=True)]

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers."""
        if self.world_size == 1:
            return
        with self._counted(2 * tensor.nbytes * (self.world_size - 1) / self.world_size):
            if self._memory is not None:
                self._memory.all_reduce(tensor)
            else:
                dist.all_reduce(tensor, group=self._group)

    def reduce_scatter(self, tensor: Tensor, axis: int = 0) -> Tensor:
        """The sum of a tensor over all workers, of which each gets its part along ``axis``."""
        if self.world_size == 1:
            return tensor
        with self._counted(tensor.nbytes * (self.world_size - 1) / self.world_size):
            if self._memory is not None:
                return self._memory.reduce_scatter(tensor, axis)
            stretches = torch.stack(tensor.chunk(self.world_size, axis))
            own = torch.empty_like(stretches[0])
            dist.reduce_scatter_single(own.view(-1), stretches.view(-1), group=self._group)
            return own

    def all_gather_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Fill in the other workers' parts of each tensor, which are equal and follow each other by rank."""
        if self.world_size == 1:
            return
        with self._counted(sum(tensor.nbytes for tensor in tensors) * (self.world_size - 1) / self.world_size):
            if self._memory is not None:
                self._memory.all_gather_in_place(tensors)
                return
            for tensor in tensors:
                dist.all_gather_single(tensor, tensor.chunk(self.world_size)[self.rank], group=self._group)

    def share_memory(self, tensor: Tensor) -> Tensor | None:
        """The first worker's numbers in memory that all of them read and write, if they share memory."""
        return None if self._memory is None else self._memory.share_memory(tensor)

    def barrier(self) -> None:
        """Wait until all are here, if they share memory."""
        if self._memory is not None:
            with self._counted(0):
                self._memory.barrier()

    @contextlib.contextmanager
    def _counted(self, sent_bytes: float) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.traffic.seconds += time.perf_counter() - began
        self.traffic.sent_bytes += sent_bytes


class TorchMesh:
    """The mesh of all workers: latents lie in ``n_parts`` parts on as many workers that follow each other by rank."""

    def __init__(self, n_parts: int = 1, n_workers: int | None = None, *, in_memory: bool = True) -> None:
        """Make the groups of the first ``n_workers`` (empty: of all), with the same numbers; spares go to ``Spares``.

        ``in_memory`` as of a group.
        """
        n_workers, me = n_workers or dist.get_world_size(), dist.get_rank()
        rows, columns, groups = _groups(n_parts, n_workers)
        self.traffic = Traffic()
        self.data = TorchProcessGroup(groups[tuple(rows[me % n_parts])], self.traffic, in_memory=in_memory)
        """The workers that hold the same latents and see other rows."""
        self.latents = TorchProcessGroup(groups[tuple(columns[me // n_parts])], self.traffic, in_memory=in_memory)
        """The workers that see the same rows and hold other latents."""


def _groups(n_parts: int, n_workers: int) -> tuple[list[list[int]], list[list[int]], dict[tuple[int, ...], Any]]:
    """Ranks of each row and column of a mesh, and their process groups, which all workers have to make together."""
    columns = [list(range(first, first + n_parts)) for first in range(0, n_workers, n_parts)]
    rows = [list(range(part, n_workers, n_parts)) for part in range(n_parts)]
    return rows, columns, {tuple(ranks): dist.new_group(ranks) for ranks in (*rows, *columns)}


class Spares:
    """Workers that a mesh has no place for, because their number must divide the lanes: they come to checkpoints only.

    The first worker tells them of each; they wait for it as long as it takes.
    """

    def __init__(self, n_parts: int, n_workers: int) -> None:
        """Beside a mesh of the first ``n_workers``; every worker must come here, before the mesh is made."""
        self._n_parts, self._n_workers = n_parts, n_workers
        members = [0, *range(n_workers, dist.get_world_size())]
        self._group = dist.new_group(members, timeout=timedelta(days=365), backend="gloo")

    def tell(self, step: int | None) -> None:
        """Tell them, as the first worker, that a checkpoint is taken at a step, or that the run has ended."""
        self._shown(step)

    def wait(self, on_checkpoint: Callable[[int], object]) -> None:
        """A spare worker's part, until the run ends."""
        _groups(self._n_parts, self._n_workers)
        while (step := self._shown(None)) is not None:
            on_checkpoint(step)

    def _shown(self, step: int | None) -> int | None:
        told = torch.tensor([-1 if step is None else step])
        dist.broadcast(told, 0, group=self._group)
        return None if int(told) < 0 else int(told)
