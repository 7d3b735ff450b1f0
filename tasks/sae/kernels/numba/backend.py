"""The operations compiled for CPUs by numba."""

import torch
from typing_extensions import override

from tasks.sae.kernels.backend import Backend
from tasks.sae.kernels.numba.latents import LatentOperations
from tasks.sae.kernels.numba.rivals import Rivals
from tasks.sae.kernels.numba.rows import RowOperations
from tasks.sae.kernels.numba.select import Selection

_PRECISIONS = (torch.bfloat16, torch.float32, torch.float64)


class NumbaBackend(Selection, Rivals, RowOperations, LatentOperations, Backend):
    """All operations in one look each at the rows or the latents, shared out among torch's threads.

    Adam's rows are torch's own: where their gradients are in memory there is nothing to fuse them with.
    """

    name = "numba"

    @override
    def takes(self, device: str, dtype: torch.dtype) -> bool:
        return device == "cpu" and dtype in _PRECISIONS
