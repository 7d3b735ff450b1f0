"""What the Triton backend alone promises, by its interpreter; ``test_triton.py`` runs this file in a process of its own."""

import pytest
import torch
from torch import Tensor

from tasks.sae.config import SAEConfig
from tasks.sae.kernels import dispatch
from tasks.sae.kernels.backend import Backend
from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.triton import BACKEND, grouping
from tasks.sae.kernels.types import AdamStep, AddedGradients, Entries, Part
from tasks.sae.mesh import OneProcess
from tasks.sae.parameters import Layout, Parameters, view
from tasks.sae.scaling import Scaling
from tasks.train.config import TrainConfig
from tasks.train.plan import plan
from tasks.train.step import train_step
from tasks.train.train_state import initial_state
from tests.sae.kernels.problems import assert_close, by_row

CHUNK = 16
N, D_SAE, D_IN, D_OUT = 2 * CHUNK + 9, 9, 5, 7


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def skewed(seed: int = 0) -> Part:
    """Latent 2 is active in all rows, so it is three chunks; 4 in as many as a chunk has, 7 in one more, and 0 in none."""
    active = torch.zeros(N, D_SAE, dtype=torch.bool)
    active[:, 2], active[:CHUNK, 4], active[-CHUNK - 1 :, 7], active[::10, 8] = True, True, True, True
    _, latents = active.nonzero(as_tuple=True)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), active.sum(1).cumsum(0)])
    entries = Entries(randn(len(latents), seed=seed), latents.int(), start)
    return Part(entries, None, randn(N, D_OUT, seed=seed + 1), randn(N, D_IN, seed=seed + 2), (D_SAE,))


def parameters(seed: int) -> Parameters:
    layout = Layout(D_IN, D_SAE, D_OUT)
    return view(randn(layout.size, seed=seed).abs(), layout)


def adams_step(backend: Backend, parts: list[Part], unit_norm: bool = True) -> list[Tensor]:
    state = [parameters(seed) for seed in (5, 6, 7)]
    settings = AdamStep(lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=3, unit_norm=unit_norm)
    square = backend.by_latent(parts, (0, D_SAE), AddedGradients(randn(D_SAE, seed=8))).adam(*state, settings)
    return [square, *(part.flat for part in state)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "CHUNK", CHUNK)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("n_parts", [1, 2])
def test_a_latent_with_more_entries_than_a_chunk_gets_the_same_sums(n_parts: int) -> None:
    parts = [skewed(seed) for seed in range(0, 10 * n_parts, 10)]
    assert int(parts[0].entries.latents.bincount().max()) > 2 * CHUNK
    W_dec, ours, theirs = parameters(3).W_dec, parameters(4), parameters(4)
    for backend, out in ((BACKEND, ours), (TorchBackend(), theirs)):
        backend.by_latent(parts, (0, D_SAE)).write(W_dec, out)
    assert_close(ours.flat, theirs.flat, 1e-13)
    for mine, torchs in zip(adams_step(BACKEND, parts), adams_step(TorchBackend(), parts), strict=True):
        assert_close(mine, torchs, 1e-12)


@pytest.mark.usefixtures("small_chunks")
def test_the_same_bits_come_again() -> None:
    first, second = (adams_step(BACKEND, [skewed()]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_columns_beyond_65536_are_selected_as_any_other() -> None:
    pre_acts = -torch.rand(1, 66_000, generator=torch.Generator().manual_seed(0))
    pre_acts[0, [5, 65_535, 65_536, 65_999]] = torch.tensor([1.0, 3.0, 2.0, 4.0])
    (found,) = by_row(BACKEND.select_top_k(pre_acts.bfloat16(), 3, torch.float32))
    assert found == {65_999: 4.0, 65_535: 3.0, 65_536: 2.0}


@pytest.mark.parametrize(
    ("k", "width"),
    [(1, 700), (7, 1500), (2050, 2100)],  # more ties than there is room for; more columns than a block; too many for groups
)
def test_where_candidates_have_no_room_the_row_is_looked_at_again(k: int, width: int) -> None:
    pre_acts = torch.full((2, width), 0.5)
    pre_acts[0, [3, width - 1]] = torch.tensor([1.0, 2.0])
    pre_acts[1, ::2] = -1.0
    upper, ties = by_row(BACKEND.select_top_k(pre_acts, k, torch.float32))
    assert sorted(upper.values(), reverse=True) == ([2.0, 1.0] + [0.5] * width)[:k]
    assert list(ties.values()) == [0.5] * min(k, width // 2)


@pytest.mark.parametrize("arch", ["topk", "matryoshka"])
def test_training_goes_the_way_that_it_goes_in_plain_torch(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(0))
    found = []
    for backend in (BACKEND, TorchBackend()):
        monkeypatch.setattr(dispatch, "_chosen", lambda device, dtype, backend=backend: backend)
        config = SAEConfig(arch=arch, d_in=6, d_sae=16, k=3)
        train = TrainConfig(tokens=16 * 1000, batch_tokens=16, dead_after_tokens=16, precision="fp32")
        resolved = plan(config, train, 6)
        state = initial_state(resolved, rows[0])
        state.silent[:4] = 100  # these are dead
        before = state.parameters.flat.clone()
        for batch in rows:
            train_step(state, batch, resolved, Scaling(torch.zeros(6), torch.ones(6)), OneProcess())
        found.append(state.parameters.flat - before)
    assert_close(found[0], found[1], 1e-4)
