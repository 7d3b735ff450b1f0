"""The size of the weights that training starts from, once their directions are drawn."""

from jaxtyping import Float
from torch import Tensor

from tasks.sae.ops import decode_sparse, top_k
from tasks.sae.parameters import Parameters

L1_DECODER_NORM = 0.1
"""Norm of decoder rows at the start where they are free to grow; SAELens' value of the update's range .05 to 1."""
_FIT_ROWS = 1024


def match_size(parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"], k: int) -> None:
    """Give the encoder the size with which the first reconstructions by k latents fit the rows best.

    Source: https://arxiv.org/abs/2406.04093, appendix A.1. For a transcoder (``y`` is not ``x``), whose decoder rows say
    nothing about its encoder's size, reconstructions get the size of the rows that they are to rebuild.
    """
    codes = top_k(x[:_FIT_ROWS] @ parameters.encoder.T + parameters.b_enc, k)
    y_hat, target = decode_sparse(codes, parameters.W_dec), y[:_FIT_ROWS] - parameters.b_dec
    size = float(y_hat.square().sum())
    if size == 0:
        return
    fit = float((y_hat * target).sum()) / size
    factor = fit if y is x else (float(target.square().sum()) / size) ** 0.5
    if factor > 0:
        parameters.encoder.mul_(factor)
        parameters.b_enc.mul_(factor)


def shrink_decoder(parameters: Parameters) -> None:
    """Give both halves the size from which decoder rows that are free to grow start."""
    parameters.W_dec.mul_(L1_DECODER_NORM)
    parameters.encoder.mul_(L1_DECODER_NORM)
    parameters.b_enc.mul_(L1_DECODER_NORM)
