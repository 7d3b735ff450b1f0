"""How far one gets without training: ways to rebuild activations with as many numbers per row as the SAE, or none."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tasks.sae import SparseAutoencoder
from tasks.score.codes import chunk_rows, in_chunks, reconstruct
from tasks.score.stats import ratio
from tasks.store.reader import Split
from tasks.store.schema import to_float32

TRAINING_ROWS = 100_000
"""Training rows that the baselines are fitted on, at most."""
_SEED = 0
# Training rows that are nearly equal make a row's k x k system singular; in float64 this is enough to solve it.
_RIDGE = 1e-9
# Float64 numbers in the k dictionary rows of a chunk of rows: 32 MiB, see codes.py.
_CHOSEN_NUMBERS = 4_000_000


def sample_training_rows(split: Split, wanted: int = TRAINING_ROWS) -> Float[Tensor, "n d_in"]:
    """About ``wanted`` rows, from row groups evenly spaced over all shards (within a shard rows lie in random order)."""
    units = split.units()[:: max(1, split.rows // wanted)]
    rows = np.concatenate([to_float32(split.activations(unit), split.dtype) for unit in units])
    return torch.tensor(rows[:wanted])


@torch.inference_mode()
def baselines(
    sae: SparseAutoencoder, train: Float[Tensor, "n d_in"], rows: Float[Tensor, "m d_in"], k: int
) -> dict[str, dict[str, Any]]:
    """FVU of each baseline, and of the SAE, on the held-out ``rows``; fitted on the training rows ``train``.

    All but the SAE rebuild rows less the training mean. ``k`` is the number of components or of directions per row.
    """
    mean = train.double().mean(dim=0)
    centred = rows.double() - mean
    deviation = float((rows.double() - rows.double().mean(dim=0)).square().sum())
    random = random_directions(sae.d_sae, sae.d_in)
    drawn = training_directions(train - mean.float(), sae.d_sae)
    components = principal_components(train, mean, k)
    return {
        "mean": {"fvu": ratio(deviation, deviation)},
        "pca": {"fvu": ratio(component_error(centred, components), deviation), "components": components.shape[1]},
        "random_directions": {"fvu": ratio(dictionary_error(centred, random, k), deviation), "k": k, "rows": len(random)},
        "training_rows": {"fvu": ratio(dictionary_error(centred, drawn, k), deviation), "k": k, "rows": len(drawn)},
        "sae_same_rows": {"fvu": ratio(sae_error(sae, rows), deviation)},
    }


def principal_components(
    train: Float[Tensor, "n d_in"], mean: Float64[Tensor, "d_in"], k: int
) -> Float64[Tensor, "d_in components"]:
    """The ``k`` directions in which training rows vary most (all of them where there are fewer)."""
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in in_chunks(train, chunk_rows(len(mean))):
        centred = part.double() - mean
        covariance.addmm_(centred.T, centred)
    _, vectors = torch.linalg.eigh(covariance)
    components: Tensor = vectors[:, -k:]
    return components


def random_directions(n: int, d_in: int) -> Float[Tensor, "n d_in"]:
    """``n`` seeded directions, uniform on the sphere."""
    directions = torch.randn(n, d_in, generator=torch.Generator().manual_seed(_SEED))
    return torch.nn.functional.normalize(directions, dim=1)


def training_directions(centred: Float[Tensor, "rows d_in"], n: int) -> Float[Tensor, "m d_in"]:
    """The directions of ``n`` training rows drawn without replacement, of all that there are where there are fewer."""
    drawn = torch.randperm(len(centred), generator=torch.Generator().manual_seed(_SEED))[:n]
    return torch.nn.functional.normalize(centred[drawn], dim=1)


def component_error(rows: Float64[Tensor, "m d_in"], components: Float64[Tensor, "d_in k"]) -> float:
    """Sum of the squared distances of rows to the span of orthonormal components."""
    return float((rows - rows @ components @ components.T).square().sum())


def dictionary_error(rows: Float64[Tensor, "m d_in"], directions: Float[Tensor, "n d_in"], k: int) -> float:
    """Sum of the squared distances of rows to the span of the ``k`` directions with the largest |dot| with each."""
    k = min(k, len(directions))
    total = 0.0
    for part, chosen in _chosen(rows, directions, k):
        gram = chosen @ chosen.mT
        gram.diagonal(dim1=1, dim2=2).add_(_RIDGE)
        dots = chosen @ part[:, :, None]
        weights = torch.cholesky_solve(dots, torch.linalg.cholesky(gram))
        total += float((part - (weights.mT @ chosen)[:, 0]).square().sum())
    return total


def _chosen(rows: Tensor, directions: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows a few at a time, [n, d_in], with their chosen directions [n, k, d_in] in float64."""
    size = max(1, min(chunk_rows(len(directions)), _CHOSEN_NUMBERS // (k * directions.shape[1])))
    for part in in_chunks(rows, size):
        chosen = (part.float() @ directions.T).abs().topk(k).indices
        yield part, directions[chosen].double()


def sae_error(sae: SparseAutoencoder, rows: Float[Tensor, "m d_in"]) -> float:
    """Sum of the squared distances of rows to the SAE's reconstructions."""
    parts = in_chunks(rows, chunk_rows(sae.d_sae))
    return sum(float((part.double() - reconstruct(sae, part).double()).square().sum()) for part in parts)
