"""The weights that training starts from: drawn on the CPU from the seed, so they are the same on every machine."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tasks.sae.config import SAEConfig
from tasks.sae.ops import decode_sparse, top_k
from tasks.sae.parameters import Layout, Parameters, zeros
from tasks.sae.registry import architecture

L1_DECODER_NORM = 0.1
"""Norm of decoder rows at the start where they are free to grow; SAELens' value of the update's range .05 to 1."""
_FIT_ROWS = 1024
_MEDIAN_STEPS = 50


def initial_parameters(
    config: SAEConfig,
    layout: Layout,
    seed: int,
    x: Float[Tensor, "m d_in"],
    y: Float[Tensor, "m d_out"] | None = None,
) -> Parameters:
    """Decoder rows of norm 1, the encoder as their transpose, and biases 0; then what the architecture makes of them.

    ``x`` are scaled training rows and ``y`` the rows to be rebuilt from them (empty: ``x`` itself). If the architecture
    wants it, each latent leans half towards one of the rows, the encoder to ``x`` and the decoder to ``y``. Measured on
    SmolLM2-135M, TopK, 1M tokens at lr 2e-3: FVU .0894 and .1% dead, where purely random directions end at .0900 and .4%.
    """
    kind, target = architecture(config.arch), x if y is None else y
    generator = torch.Generator().manual_seed(seed)
    parameters = zeros(layout)
    parameters.W_dec.copy_(normalize(torch.randn(config.d_sae, layout.d_out, generator=generator)))
    rows = torch.randint(len(x), (config.d_sae,), generator=generator)
    if kind.leans_on_rows:
        parameters.W_dec.copy_(normalize(parameters.W_dec + normalize(target[rows])))
    if y is None:
        parameters.encoder.copy_(parameters.W_dec)
    else:  # the decoder's directions mean nothing to the input: pairs of rows are what ties the two
        random = normalize(torch.randn(config.d_sae, layout.d_in, generator=generator))
        parameters.encoder.copy_(normalize(random + normalize(x[rows])))
        parameters.W_dec.copy_(normalize(parameters.W_dec + normalize(target[rows])))
    if config.b_dec == "geometric_median":
        parameters.b_dec.copy_(geometric_median(target))
        if y is None:
            parameters.b_enc.copy_(-parameters.encoder @ parameters.b_dec)
    kind.start(config, parameters, x, target)
    return parameters


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


def geometric_median(x: Float[Tensor, "m d"]) -> Float[Tensor, "d"]:
    """The point whose summed distance to the rows is least, by Weiszfeld's iteration."""
    point = x.mean(0)
    for _ in range(_MEDIAN_STEPS):
        weight = 1 / torch.linalg.vector_norm(x - point, dim=1).clamp(min=1e-6)
        moved: Tensor = (weight[:, None] * x).sum(0) / weight.sum()
        if float((moved - point).norm()) <= 1e-6 * float(point.norm() + 1):
            break
        point = moved
    return moved
