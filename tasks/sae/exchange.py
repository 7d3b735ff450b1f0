"""What data-parallel workers have to tell each other during a step, as an interface that knows no network."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable  # tests execute annotations
class Exchange(Protocol):
    """Collective operations over all workers; every worker must call them in the same order."""

    @property
    def world_size(self) -> int:
        """Number of workers."""
        ...

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The same tensors of all workers, joined along their first axis by rank."""
        ...

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers."""
        ...


class Alone:
    """One worker: nothing to exchange."""

    world_size = 1

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:  # noqa: D102
        return list(tensors)

    def add_up(self, tensor: Tensor) -> None:  # noqa: D102
        return None
