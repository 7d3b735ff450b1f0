from collections.abc import Callable

import numpy as np
import pytest
import torch

from tasks.activations.writer import Rows
from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.scaling import Weights
from tests.stored import store_hooks

D_IN, D_SAE, K = 8, 24, 3
CONTEXT = 10

MakeSAE = Callable[..., SparseAutoencoder]
StoreRows = Callable[..., str]


@pytest.fixture
def make_sae() -> MakeSAE:
    """An SAE of random weights."""

    def make(
        arch: str = "topk", d_in: int = D_IN, d_sae: int = D_SAE, k: int = K, d_out: int | None = None
    ) -> SparseAutoencoder:
        generator, d_out = torch.Generator().manual_seed(5), d_out or d_in
        weights = Weights(
            W_enc=torch.randn(d_in, d_sae, generator=generator) / d_in**0.5,
            b_enc=torch.randn(d_sae, generator=generator) / 4,
            W_dec=torch.randn(d_sae, d_out, generator=generator) / d_in**0.5,
            b_dec=torch.randn(d_out, generator=generator),
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
        return store_hooks(f"{tmp_path}/activations-{'c' * 12}", {hook: (train, held_out)}, row_group_rows, **more)

    return store
