from collections.abc import Callable

import numpy as np
import pytest
import torch

from tasks.artifacts import write_manifest
from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.scaling import Weights
from tasks.store.objects import open_store
from tasks.store.schema import RowFormat
from tasks.store.writer import Rows, encode_shard

D_IN, D_SAE, K = 8, 24, 3
CONTEXT = 10

MakeSAE = Callable[..., SparseAutoencoder]
StoreRows = Callable[..., str]


@pytest.fixture
def make_sae() -> MakeSAE:
    """An SAE of random weights."""

    def make(arch: str = "topk", d_in: int = D_IN, d_sae: int = D_SAE, k: int = K) -> SparseAutoencoder:
        generator = torch.Generator().manual_seed(5)
        weights = Weights(
            W_enc=torch.randn(d_in, d_sae, generator=generator) / d_in**0.5,
            b_enc=torch.randn(d_sae, generator=generator) / 4,
            W_dec=torch.randn(d_sae, d_in, generator=generator) / d_in**0.5,
            b_dec=torch.randn(d_in, generator=generator),
        )
        config = SAEConfig(arch=arch, d_in=d_in, d_sae=d_sae, k=k)  # type: ignore[arg-type]
        return SparseAutoencoder(config, weights).requires_grad_(requires_grad=False)

    return make


def text_rows(n_sequences: int, first: int = 0, masked: float = 0.2, seed: int = 0) -> Rows:
    """Random rows of whole sequences in order, position 0 and a random share of the others masked."""
    rng = np.random.default_rng((seed, first))
    sequence, position = np.divmod(np.arange(n_sequences * CONTEXT), CONTEXT)
    kept = (position > 0) & (rng.random(len(position)) >= masked)
    n = int(kept.sum())
    activation = (rng.standard_normal((n, D_IN)) + 3).astype(np.float32)
    token_id = rng.integers(0, 50, n).astype(np.int32)
    return Rows(activation, token_id, sequence[kept] + first, position[kept].astype(np.int32))


@pytest.fixture
def store_rows(tmp_path) -> StoreRows:
    """An activations directory of one hook whose splits hold the given shards; returns its URI."""

    def store(train: list[Rows], held_out: list[Rows], hook: str = "layer", row_group_rows: int = 7, **more: object) -> str:
        uri = str(tmp_path / f"activations-{'c' * 12}")
        splits, statistics = {}, {}
        for split, shards in (("train", train), ("eval", held_out)):
            x = np.concatenate([rows.activation for rows in shards]).astype(np.float64)
            row_format = RowFormat(x.shape[1], "float32", hook, "model", "main", "0" * 12, shards[0].label is not None)
            entries = [
                _put(uri, f"{hook}/{split}/{n:05d}", rows, row_format, row_group_rows) for n, rows in enumerate(shards)
            ]
            splits[split] = {"rows": len(x), "shards": entries}
            median = float(np.median(np.linalg.norm(x, axis=1)))
            statistics[split] = {"mean": x.mean(axis=0).tolist(), "median_norm": median}
        entry = {"d_in": x.shape[1], "dtype": "float32", "splits": splits, "statistics": statistics}
        write_manifest(uri, {"hooks": {hook: entry}, **more})
        return uri

    return store


def _put(uri: str, key: str, rows: Rows, row_format: RowFormat, row_group_rows: int) -> dict[str, object]:
    encoded = encode_shard(rows, row_format, row_group_rows)
    name = f"{key}-{encoded.sha256[:12]}.parquet"
    open_store(uri).put(name, encoded.data)
    sizes = {"size": len(encoded.data), "rows": encoded.rows, "row_groups": encoded.row_groups, "first_sequence": 0}
    return {"key": name, "sha256": encoded.sha256, **sizes}
