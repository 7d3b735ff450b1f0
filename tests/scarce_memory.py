"""A limit of memory, simulated: whatever tensor is made beyond it fails as torch's allocators fail."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def on_a_cpu(n_bytes: int) -> RuntimeError:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        f"you tried to allocate {n_bytes} bytes. Error code 12 (Cannot allocate memory)"
    )


def on_a_gpu(n_bytes: int) -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {n_bytes} bytes.")


class ScarceMemory(TorchDispatchMode):
    """No tensor made in this thread has more than ``limit`` bytes of its own."""

    def __init__(self, limit: int, error: Callable[[int], Exception] = on_a_cpu) -> None:
        super().__init__()
        self.limit, self.error, self.refused = limit, error, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {place(tensor) for tensor in tensors((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        for tensor in tensors(found):
            n_bytes = tensor.untyped_storage().nbytes()
            if n_bytes > self.limit and place(tensor) not in given:
                self.refused += 1
                raise self.error(n_bytes)
        return found


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
