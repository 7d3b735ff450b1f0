"""Dictionaries with a known relation to each other, and rows that one of them explains."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from tasks.encode.chunks import encoded
from tasks.encode.codes import CSRCodes
from tasks.identity.activity import Activity
from tasks.identity.comparison import Comparison, Side
from tasks.identity.directions import unit_directions
from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.scaling import Weights

D_IN, D_SAE, K, ROWS = 64, 200, 6, 6_000


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(W_enc: Tensor, W_dec: Tensor, k: int = K, arch: str = "topk") -> SparseAutoencoder:
    d_in, d_sae = W_enc.shape
    weights = Weights(W_enc, torch.zeros(d_sae), W_dec, torch.zeros(W_dec.shape[1]))
    return SparseAutoencoder(SAEConfig(arch=arch, d_in=d_in, d_sae=d_sae, k=k), weights).requires_grad_(requires_grad=False)


def dictionary(seed: int = 0, d_sae: int = D_SAE, d_in: int = D_IN) -> SparseAutoencoder:
    """Unit directions, encoder and decoder alike."""
    W_dec = normalize(normal(d_sae, d_in, seed=seed))
    return built(W_dec.T.contiguous(), W_dec)


def rows_of(sae: SparseAutoencoder, n: int = ROWS, seed: int = 0) -> NDArray[np.float32]:
    """Sums of a few decoder rows with weights of about 1, and a little noise."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, sae.d_sae), np.float32)
    chosen = np.argsort(rng.random((n, sae.d_sae)), axis=1)[:, :4]
    np.put_along_axis(codes, chosen, rng.uniform(0.7, 1.5, (n, 4)).astype(np.float32), axis=1)
    noise = 0.02 * rng.standard_normal((n, sae.d_in)).astype(np.float32)
    return codes @ sae.W_dec.numpy() + noise


def near(directions: Tensor, cosine: float, seed: int) -> Tensor:
    """Rows at about this cosine to the given ones, of their norms."""
    noise = normalize(normal(*directions.shape, seed=seed))
    unit = normalize(directions)
    mixed = cosine * unit + (1 - cosine**2) ** 0.5 * normalize(noise - (noise * unit).sum(1, keepdim=True) * unit)
    return mixed * directions.norm(dim=1, keepdim=True)


def reborn(
    sae: SparseAutoencoder, order: Tensor, cosine: float, born: int, seed: int, mean: Tensor | None = None
) -> SparseAutoencoder:
    """Latents of ``sae`` in this order, which may lack some, at a cosine to what they were; then some random ones.

    An encoder turns about ``mean``, which stays at the pre-activations that it had: a retrain centres its rows, too.
    """
    places = torch.cat([order, torch.arange(born)])
    W_dec = torch.cat([near(sae.W_dec[order], cosine, seed), near(sae.W_dec[:born], 0.0, seed + 1)])
    W_enc = torch.cat([near(sae.W_enc.T[order], cosine, seed + 2), near(sae.W_enc.T[:born], 0.0, seed + 3)]).T.contiguous()
    weights = sae.weights
    more = {name: tensor[places] for name, tensor in weights.extra.items() if tensor.ndim == 1}
    b_enc = weights.b_enc[places]
    if mean is not None:
        b_enc = b_enc + mean @ (weights.W_enc[:, places] - W_enc)
    config = replace(sae.config, d_sae=len(W_dec))
    found = SparseAutoencoder(config, Weights(W_enc, b_enc, W_dec, weights.b_dec, more), sae.belonging)
    return found.requires_grad_(requires_grad=False)


def shuffled(n: int, seed: int = 0) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def activity(sae: SparseAutoencoder, x: NDArray[np.float32]) -> Activity:
    return Activity.of(CSRCodes.joined([chunk.codes for chunk in encoded(sae, [x], "float32")]), sae.d_sae)


def compared(a: SparseAutoencoder, b: SparseAutoencoder, x: NDArray[np.float32]) -> Comparison:
    return Comparison(*(Side(unit_directions(sae, None), activity(sae, x)) for sae in (a, b)))
