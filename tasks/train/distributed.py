"""Exchange between workers through torch.distributed (gloo or nccl)."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.sae.exchange import Traffic


class TorchGroup:
    """Collectives of some of the workers.

    Bytes are counted as a ring sends them: each worker's part once to each of the others, twice of a sum.
    """

    def __init__(self, group: dist.ProcessGroup | None, traffic: Traffic) -> None:
        """Of a process group (None: of all workers); what is sent is added to ``traffic``."""
        self._group, self.traffic = group, traffic
        self.world_size, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The same tensors of all workers, joined along their first axis by rank.

        All go as bytes in one message: a collective costs about 2 ms over gloo however small it is.
        """
        if self.world_size == 1:
            return list(tensors)
        parts = [tensor.contiguous().view(torch.uint8).flatten() for tensor in tensors]
        sent = torch.cat(parts)
        received = sent.new_empty(self.world_size * len(sent))
        with self._counted(len(sent) * (self.world_size - 1)):
            dist.all_gather_into_tensor(received, sent, group=self._group)
        pieces = torch.split(received.view(self.world_size, -1), [len(part) for part in parts], dim=1)
        return [
            piece.flatten().view(tensor.dtype).view(-1, *tensor.shape[1:])  # flat first: tensors may be empty
            for piece, tensor in zip(pieces, tensors, strict=True)
        ]

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers."""
        if self.world_size == 1:
            return
        with self._counted(2 * tensor.nbytes * (self.world_size - 1) / self.world_size):
            dist.all_reduce(tensor, group=self._group)

    @contextlib.contextmanager
    def _counted(self, sent_bytes: float) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.traffic.seconds += time.perf_counter() - began
        self.traffic.sent_bytes += sent_bytes


class TorchExchange(TorchGroup):
    """The mesh of all workers: latents lie in ``n_parts`` parts on as many workers that follow each other by rank."""

    def __init__(self, n_parts: int = 1) -> None:
        """Make the groups; every worker must come here, with the same number."""
        n_workers, me = dist.get_world_size(), dist.get_rank()
        columns = [list(range(first, first + n_parts)) for first in range(0, n_workers, n_parts)]
        rows = [list(range(part, n_workers, n_parts)) for part in range(n_parts)]
        groups = {tuple(ranks): dist.new_group(ranks) for ranks in (*rows, *columns)}
        traffic = Traffic()
        super().__init__(groups[tuple(rows[me % n_parts])], traffic)
        self._latents = TorchGroup(groups[tuple(columns[me // n_parts])], traffic)

    @property
    def latents(self) -> TorchGroup:
        """The workers that see the same rows and hold other latents."""
        return self._latents
