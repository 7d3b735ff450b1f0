"""How far one gets without training: ways to rebuild activations with as many numbers per row as the SAE, or none."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tasks.activations.multi_hook import AnySplit
from tasks.activations.schema import to_float32
from tasks.encode.chunks import chunk_rows, in_chunks, reconstruct
from tasks.sae import SparseAutoencoder
from tasks.score.stats import ratio

TRAINING_ROWS = 100_000
"""Training rows that the baselines are fitted on, at most."""
Scale = Float64[Tensor, "d_in"] | None
"""What features are multiplied by so that all hooks weigh alike (``Roles.scale``)."""
_SEED = 0
# Training rows that are nearly equal make a row's k x k system singular; in float64 this is enough to solve it.
_RIDGE = 1e-9
# Float64 numbers in the k dictionary rows of a chunk of rows: 32 MiB, see chunks.py; on a GPU 512 MiB.
_CHOSEN_NUMBERS = 4_000_000
_CHOSEN_NUMBERS_ON_A_GPU = 2**26


# Multiply-adds in the rows' k x k systems; 20 s on one core is a guess.
_AFFORDABLE = 3e11


@dataclass(frozen=True, slots=True)
class Fit:
    """What the baselines know of training rows."""

    mean: Float64[Tensor, "d_in"]
    covariance: Float64[Tensor, "d_in d_in"]
    """Mean of (x - mean) (x - mean)^T."""
    directions: Float[Tensor, "n d_in"]
    """Rows drawn without replacement, less the mean and scaled to norm 1."""


def fit_training_rows(
    split: AnySplit,
    n_directions: int,
    scale: Scale = None,
    wanted: int = TRAINING_ROWS,
    device: str | torch.device = "cpu",
) -> Fit:
    """Fit to about ``wanted`` rows, from row groups evenly spaced over all shards (rows of a shard lie in random order)."""
    units = split.units()[:: max(1, split.rows // wanted)]
    parts = (torch.from_numpy(to_float32(split.activations(unit), split.dtype).copy()).to(device) for unit in units)
    return fit((_scaled(part, scale) for part in parts), sum(unit.rows for unit in units), n_directions)


def fit(parts: Iterable[Tensor], n_rows: int, n_directions: int) -> Fit:
    """Fit to all ``n_rows`` rows of some parts, each [m, d_in]; all become directions where there are no more than wanted.

    In float64 nothing is lost by taking the mean out of the second moments at the end.
    """
    drawn = torch.randperm(n_rows, generator=torch.Generator().manual_seed(_SEED))[:n_directions].sort().values
    total, moments, rows, first = torch.zeros(()), torch.zeros(()), [], 0
    for part in parts:
        exact = part.double()
        total, moments = total + exact.sum(dim=0), moments + exact.T @ exact
        rows.append(part[drawn[(drawn >= first) & (drawn < first + len(part))] - first])
        first += len(part)
    mean = total / n_rows
    directions = torch.nn.functional.normalize(torch.cat(rows).double() - mean, dim=1)
    return Fit(mean, moments / n_rows - torch.outer(mean, mean), directions.float())


@torch.inference_mode()
def baselines(
    sae: SparseAutoencoder, training: Fit, rows: Float[Tensor, "m d_in"], k: int, scale: Scale = None
) -> dict[str, dict[str, Any]]:
    """FVU of each baseline, and of the SAE, on held-out ``rows``.

    All but the SAE rebuild rows less the training mean. ``k`` is the number of components, or of directions per row.
    ``training`` is of scaled rows, where there is a ``scale``.
    """
    exact = _scaled(rows, scale).double()
    centred = exact - training.mean
    deviation = float((exact - exact.mean(dim=0)).square().sum())
    found: dict[str, dict[str, Any]] = {
        "mean": {"fvu": ratio(deviation, deviation)},
        "sae_same_rows": {"fvu": ratio(sae_error(sae, rows, scale), deviation), "tokens": len(rows)},
    }
    components = principal_components(training, k)
    found["pca"] = {"fvu": ratio(component_error(centred, components), deviation), "components": components.shape[1]}
    dictionaries = {
        "random_directions": random_directions(sae.d_sae, sae.d_in).to(rows.device),
        "training_rows": training.directions,
    }
    for name, dictionary in dictionaries.items():
        error = dictionary_error(centred, dictionary, k)
        found[name] = {"fvu": ratio(error, deviation), "k": min(k, len(dictionary)), "directions": len(dictionary)}
    return found


def principal_components(training: Fit, k: int) -> Float64[Tensor, "d_in components"]:
    """The ``k`` directions in which training rows vary most; all of them where there are fewer."""
    _, vectors = torch.linalg.eigh(training.covariance)
    components: Tensor = vectors[:, -k:]
    return components


def affordable_rows(k: int, d_in: int) -> int:
    """Rows on which a dictionary of ``k`` directions per row is solved in reasonable time: 500,000 for k 32 of d_in 576."""
    return max(256, int(_AFFORDABLE / (k * k * d_in)))


def random_directions(n: int, d_in: int) -> Float[Tensor, "n d_in"]:
    """``n`` seeded directions, uniform on the sphere."""
    directions = torch.randn(n, d_in, generator=torch.Generator().manual_seed(_SEED))
    return torch.nn.functional.normalize(directions, dim=1)


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
    most = _CHOSEN_NUMBERS if rows.device.type == "cpu" else _CHOSEN_NUMBERS_ON_A_GPU
    size = max(1, min(chunk_rows(len(directions), rows.device), most // (k * directions.shape[1])))
    for part in in_chunks(rows, size):
        chosen = (part.float() @ directions.T).abs().topk(k).indices
        yield part, directions[chosen].double()


def sae_error(sae: SparseAutoencoder, rows: Float[Tensor, "m d_in"], scale: Scale = None) -> float:
    """Sum of the squared distances of rows to the SAE's reconstructions, both scaled."""
    parts = in_chunks(rows, chunk_rows(sae.d_sae, rows.device))
    errors = (part.double() - reconstruct(sae, part).double() for part in parts)
    return sum(float(_scaled(error, scale).square().sum()) for error in errors)


def _scaled(rows: Float[Tensor, "m d_in"], scale: Scale) -> Float[Tensor, "m d_in"]:
    """Rows in float64 units in which all hooks weigh alike; as they are where there is no scale."""
    return rows if scale is None else rows.double() * scale
