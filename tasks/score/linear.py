"""How far one gets from a transcoder's input to its target by a linear map, fitted without training."""

from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tasks.encode.chunks import chunk_rows, in_chunks, reconstruct
from tasks.sae import SparseAutoencoder
from tasks.score.baselines import Fit
from tasks.score.stats import ratio

# Directions of less variance than this share of the largest are left out: in float64 they are rounding.
_SMALLEST = 1e-10


@torch.inference_mode()
def linear_baselines(
    sae: SparseAutoencoder, training: Fit, rows: Float[Tensor, "m d_in_and_d_out"], k: int
) -> dict[str, dict[str, Any]]:
    """FVU of the target's mean, of linear maps from the input, and of the transcoder, on held-out ``rows``.

    Args:
        sae: a transcoder.
        training: of rows that hold input and target side by side.
        rows: likewise.
        k: rank of the smaller map, which so knows a row by as many numbers as the transcoder.
    """
    x, y = rows[:, : sae.d_in], rows[:, sae.d_in :].double()
    deviation = float((y - y.mean(dim=0)).square().sum())
    mean_x, mean_y = training.mean[: sae.d_in], training.mean[sae.d_in :]
    whole = linear_map(training.covariance, sae.d_in)
    small = reduced_rank(whole, training.covariance, k)
    centred_x, centred_y = x.double() - mean_x, y - mean_y

    def fvu(linear: Tensor) -> float | None:
        return ratio(float((centred_y - centred_x @ linear).square().sum()), deviation)

    return {
        "mean": {"fvu": ratio(deviation, deviation)},
        "sae_same_rows": {"fvu": ratio(transcoder_error(sae, x, y), deviation), "tokens": len(rows)},
        "linear": {"fvu": fvu(whole)},
        "linear_rank_k": {"fvu": fvu(small), "components": min(k, sae.d_in, sae.d_out)},
    }


def linear_map(covariance: Float64[Tensor, "d d"], d_in: int) -> Float64[Tensor, "d_in d_out"]:
    """The map from the first ``d_in`` features to the others with the least mean squared error.

    Of several such maps, where features are linearly dependent, the smallest.
    """
    of_input, with_target = covariance[:d_in, :d_in], covariance[:d_in, d_in:]
    found: Tensor = torch.linalg.pinv(of_input, rtol=_SMALLEST, hermitian=True) @ with_target
    return found


def reduced_rank(
    linear: Float64[Tensor, "d_in d_out"], covariance: Float64[Tensor, "d d"], k: int
) -> Float64[Tensor, "d_in d_out"]:
    """The map of rank ``k`` with the least squared error, given the best one of any rank (reduced-rank regression).

    It is that one, projected on the directions in which what it predicts varies most: Izenman 1975,
    https://doi.org/10.1016/0047-259X(75)90042-1
    """
    d_in = len(linear)
    _, vectors = torch.linalg.eigh(linear.T @ covariance[:d_in, :d_in] @ linear)
    kept = vectors[:, -k:]
    found: Tensor = linear @ kept @ kept.T
    return found


def transcoder_error(sae: SparseAutoencoder, x: Float[Tensor, "m d_in"], y: Float64[Tensor, "m d_out"]) -> float:
    """Sum of the squared distances of targets ``y`` to what is rebuilt of them from ``x``."""
    size = chunk_rows(sae.d_sae, x.device)
    pairs = zip(in_chunks(x, size), in_chunks(y, size), strict=True)
    return sum(float((target - reconstruct(sae, rows).double()).square().sum()) for rows, target in pairs)
