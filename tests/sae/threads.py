"""Workers that are threads of this process, in a mesh of rows and latents."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from tasks.sae.mesh import Mesh, Traffic
from tests.patience import PATIENCE_S

Result = TypeVar("Result")


class Board:
    """What the members of a group show each other."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=PATIENCE_S)
        self.shown: dict[int, list[Tensor]] = {}


class ThreadProcessGroup:
    def __init__(self, board: Board, rank: int) -> None:
        self._board, self.rank, self.world_size = board, rank, board.barrier.parties

    def all_gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self._board.shown[self.rank] = [tensor.clone() for tensor in tensors]
        self._board.barrier.wait()
        of_all = zip(*(self._board.shown[rank] for rank in range(self.world_size)), strict=True)
        found = [torch.cat(shown) for shown in of_all]
        self._board.barrier.wait()
        return found

    def reduce_scatter(self, tensor: Tensor, axis: int = 0) -> Tensor:
        (found,) = self.all_gather([tensor[None]])
        return found.sum(0).chunk(self.world_size, axis)[self.rank]

    def all_gather_in_place(self, tensors: Sequence[Tensor]) -> None:
        own = [tensor.chunk(self.world_size)[self.rank] for tensor in tensors]
        for tensor, found in zip(tensors, self.all_gather(own), strict=True):
            tensor.copy_(found)

    def share_memory(self, tensor: Tensor) -> Tensor | None:
        if self.world_size == 1:
            return None
        self._board.shown[self.rank] = [tensor]
        self._board.barrier.wait()
        found = self._board.shown[0][0]
        self._board.barrier.wait()
        return found

    def barrier(self) -> None:
        self._board.barrier.wait()

    def all_reduce(self, tensor: Tensor) -> None:
        (found,) = self.all_gather([tensor[None]])
        tensor.copy_(found.sum(0))


class ThreadMesh:
    def __init__(self, data: ThreadProcessGroup, latents: ThreadProcessGroup) -> None:
        self.traffic, self.data, self.latents = Traffic(), data, latents


def in_mesh(n_rows: int, n_parts: int, work: Callable[[Mesh], Result]) -> list[Result]:
    """What ``n_rows * n_parts`` workers return; those of one part of the latents are ``n_parts`` apart."""
    rows, columns = [Board(n_rows) for _ in range(n_parts)], [Board(n_parts) for _ in range(n_rows)]

    def at(worker: int) -> Result:
        row, part = divmod(worker, n_parts)
        return work(ThreadMesh(ThreadProcessGroup(rows[part], row), ThreadProcessGroup(columns[row], part)))

    with ThreadPoolExecutor(n_rows * n_parts, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [future.result() for future in [pool.submit(at, worker) for worker in range(n_rows * n_parts)]]
