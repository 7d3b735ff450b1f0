"""The columns of ``latents.parquet``, each declared once: its name, how it is computed, and how a report shows it.

One more column is one more entry of ``COLUMNS``; the report finds it in the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float64, Int64

from tasks.latent_columns import LatentColumn, Shown, describe
from tasks.score.directions import Directions
from tasks.score.stats import LatentSums
from tasks.score.tables import WeightColumns, offsets


@dataclass(frozen=True, slots=True)
class Latents:
    """What was found of all latents."""

    sums: LatentSums
    histogram: Int64[np.ndarray, "d_sae bins"]
    """Activations of each latent, between 0 and its largest one."""
    weights: WeightColumns
    directions: Directions

    @property
    def d_sae(self) -> int:
        """How many they are."""
        return len(self.sums.n_active)

    @property
    def mean_activation(self) -> Float64[np.ndarray, "d_sae"]:
        """Of the rows on which each is active; 0 where it never is."""
        mean: Float64[np.ndarray, d_sae] = self.sums.total / np.maximum(1, self.sums.n_active)
        return mean


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    name: str
    values: Callable[[Latents], pa.Array | None]
    """Computes it; None where such an SAE has no such numbers."""
    shown: Shown | None = None
    """Where it stands in a report's table of latents. Empty: not there."""


def _numbers(values: torch.Tensor | None, n: int) -> pa.Array:
    return pa.nulls(n, pa.float32()) if values is None else pa.array(values.numpy(), pa.float32())


def _histogram(latents: Latents) -> pa.Array:
    counts = latents.histogram
    return pa.ListArray.from_arrays(offsets(*counts.shape), pa.array(counts.ravel(), pa.int64()))


def _norm_shares(latents: Latents) -> pa.Array | None:
    shares = latents.directions.norm_shares
    return None if shares is None else pa.array(list(shares.numpy()), pa.list_(pa.float32()))


COLUMNS = (
    Column("latent", lambda latents: pa.array(np.arange(latents.d_sae), pa.int32())),
    Column(
        "density",
        lambda latents: pa.array(latents.sums.density, pa.float64()),
        Shown(title="Density", tip="Share of held-out rows on which it fires", digits=2, style="density"),
    ),
    Column(
        "n_active",
        lambda latents: pa.array(latents.sums.n_active, pa.int64()),
        Shown(title="Active rows", heading="Active", tip="Number of held-out rows on which it fires", style="count"),
    ),
    Column(
        "max_activation",
        lambda latents: pa.array(latents.sums.largest, pa.float32()),
        Shown(title="Max activation", heading="Max", tip="Largest activation"),
    ),
    Column(
        "mean_activation",
        lambda latents: pa.array(latents.mean_activation, pa.float64()),
        Shown(title="Mean when active", heading="Mean", tip="Mean activation over the rows on which it fires"),
    ),
    Column(
        "decoder_norm",
        lambda latents: pa.array(latents.directions.norm.numpy(), pa.float32()),
        Shown(title="Decoder norm", heading="‖W_dec‖", tip="Norm of its decoder row", digits=2),
    ),
    Column(
        "encoder_decoder_cosine",
        lambda latents: _numbers(latents.directions.cosine, latents.d_sae),
        Shown(
            title="Enc·dec cosine",
            heading="Enc·dec",
            tip="Cosine between its encoder column and decoder row",
            digits=2,
        ),
    ),
    Column("decoder_norm_share", _norm_shares),
    Column("histogram", _histogram),
    Column("promoted", lambda latents: latents.weights.promoted),
    Column("suppressed", lambda latents: latents.weights.suppressed),
    Column("neighbours", lambda latents: latents.weights.neighbours),
)


def latents_table(latents: Latents, columns: Sequence[Column] = COLUMNS) -> pa.Table:
    """A row per latent, with what a report shows of the columns in the schema's metadata."""
    computed = {column.name: column.values(latents) for column in columns}
    there = {name: values for name, values in computed.items() if values is not None}
    shown = [
        LatentColumn(name=column.name, **column.shown.model_dump())
        for column in columns
        if column.shown is not None and column.name in there
    ]
    return describe(pa.table(there), shown)
