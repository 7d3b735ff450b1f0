"""Cosines between the directions of two SAEs' latents: all at once, or the largest of each, a block at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.encode.chunks import chunk_rows, in_chunks


def cosines(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Of each row of one matrix with each of another; 0 for rows that are 0."""
    found: Tensor = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T
    return found


def largest_cosines(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "m"]]:
    """Of each row of either matrix the largest cosine with a row of the other, a block of all cosines at a time."""
    of_a, of_b = [], torch.full((len(b),), -torch.inf, device=b.device)
    for rows in in_chunks(a, chunk_rows(len(b), a.device)):
        block = cosines(rows, b)
        of_a.append(block.amax(dim=1))
        of_b = of_b.maximum(block.amax(dim=0))
    return torch.cat(of_a), of_b
