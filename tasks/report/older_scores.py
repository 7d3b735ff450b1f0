"""How scores are shown that were written before their columns and metrics described themselves; nothing else reads this."""

import pyarrow as pa

from tasks.latent_columns import LatentColumn

COLUMNS = (
    LatentColumn(name="density", title="Density", tip="Share of held-out rows on which it fires", digits=2, style="density"),
    LatentColumn(
        name="n_active",
        title="Active rows",
        heading="Active",
        tip="Number of held-out rows on which it fires",
        style="count",
    ),
    LatentColumn(name="max_activation", title="Max activation", heading="Max", tip="Largest activation"),
    LatentColumn(
        name="mean_activation",
        title="Mean when active",
        heading="Mean",
        tip="Mean activation over the rows on which it fires",
    ),
    LatentColumn(name="decoder_norm", title="Decoder norm", heading="‖W_dec‖", tip="Norm of its decoder row", digits=2),
    LatentColumn(
        name="encoder_decoder_cosine",
        title="Enc·dec cosine",
        heading="Enc·dec",
        tip="Cosine between its encoder column and decoder row",
        digits=2,
    ),
)

METRICS = (
    "kind",
    "input_hooks",
    "output_hooks",
    "d_out",
    "hooks",
    "fvu",
    "explained_variance",
    "fvu_without_high_norm",
    "high_norm_fraction",
    "l0",
    "l0_percentiles",
    "dead_fraction",
    "dense_fraction",
    "density_histogram",
    "cosine",
    "shrinkage",
    "gamma",
    "tokens",
    "ce_recovered",
    "ce.tokens",
    "ce.original",
    "ce.sae",
    "ce.zero_ablation",
    "ce.mean_ablation",
    "ce.delta_nats",
    "ce.recovered_vs_zero",
    "ce.recovered_vs_mean",
    "ce.kl",
    "baselines.sae_same_rows.fvu",
    "baselines.mean.fvu",
    "baselines.pca.fvu",
    "baselines.random_directions.fvu",
    "baselines.training_rows.fvu",
    "baselines.linear.fvu",
    "baselines.linear_rank_k.fvu",
)
"""In the order in which their definitions build on one another; those summaries keep them by name."""


def columns(latents: pa.Table) -> tuple[LatentColumn, ...]:
    """Those that the table has."""
    return tuple(column for column in COLUMNS if column.name in latents.column_names)


def metrics(definitions: dict[str, str]) -> list[str]:
    """The names of all metrics that are defined."""
    return [name for name in METRICS if name in definitions] + [name for name in definitions if name not in METRICS]
