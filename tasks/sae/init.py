"""The weights that training starts from: drawn on the CPU from the seed, so they are the same on every machine."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tasks.sae.config import SAEConfig
from tasks.sae.parameters import Parameters, zeros

L1_DECODER_NORM = 0.1
"""Norm of decoder rows at the start where they are free to grow; SAELens' value of the update's range .05 to 1."""


def initial_parameters(config: SAEConfig, d_in: int, seed: int, sample: Float[Tensor, "m d_in"]) -> Parameters:
    """Random decoder directions with the encoder as their transpose, and biases 0.

    ``sample`` are scaled training rows. For TopK they set the encoder's size, so that the first reconstructions point
    the right way and have the size that fits the rows best (https://arxiv.org/abs/2406.04093, appendix A.1).
    """
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(config.d_sae, d_in, generator=generator))
    parameters = zeros(d_in, config.d_sae)
    if config.arch == "topk":
        parameters.W_dec.copy_(directions)
        parameters.encoder.copy_(directions)
    else:
        parameters.W_dec.copy_(directions).mul_(L1_DECODER_NORM)
        parameters.encoder.copy_(parameters.W_dec)
    return parameters
