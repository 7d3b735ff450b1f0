"""Which of a worker's largest numbers of a row are among the largest of all workers'."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.kernels.numba.select import bits_of, infinity_of
from tasks.sae.kernels.numba.threads import share
from tasks.sae.kernels.numba.top import REGISTER, keep_rivals, pack_rows
from tasks.sae.kernels.types import Entries

_CHUNK = 64  # rows


class Rivals:
    """The operation of a backend that chooses among the latents of several workers."""

    def keep_largest(self, entries: Entries, rivals: Float[Tensor, "n_parts n k"], part: int) -> Entries:
        """Of a worker's entries those among the ``k`` largest of all ``rivals``, where ``rivals[part]`` are its own."""
        n_parts, n, k = rivals.shape
        bits, infinity = bits_of(rivals), infinity_of(rivals.dtype)
        coded = entries.values.numpy(), entries.latents.numpy(), entries.start.numpy()
        kept = np.empty((n, k), coded[0].dtype), np.empty((n, k), np.int32)
        start, width = np.zeros(n + 1, np.int64), n_parts * k + REGISTER
        share(lambda low, high: keep_rivals(bits, part, infinity, width, *coded, *kept, start, low, high), n, _CHUNK)
        np.cumsum(start, out=start)
        packed = np.empty(start[-1], coded[0].dtype), np.empty(start[-1], np.int32)
        share(lambda low, high: pack_rows(*kept, start, *packed, low, high), n, _CHUNK)
        values, latents = map(torch.from_numpy, packed)
        return Entries(values, latents, torch.from_numpy(start))
