from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.interchange.portable import Belonging, Portable
from tasks.sae import SAEConfig
from tasks.sae.scaling import Weights

D_IN, D_SAE, K = 6, 24, 4
HOOK, TARGET = "model.layers.3.mlp:input", "model.layers.3.mlp"

Make = Callable[..., Portable]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def extra(arch: str) -> dict[str, Tensor]:
    if arch in ("batchtopk", "matryoshka"):
        return {"threshold": torch.full((D_SAE,), 0.7)}
    if arch.startswith("jumprelu"):
        return {"threshold": normal(D_SAE, seed=5).abs()}
    return {"r_mag": normal(D_SAE, seed=6) / 4, "b_mag": normal(D_SAE, seed=7)} if arch == "gated" else {}


@pytest.fixture
def made() -> Make:
    """Make an SAE of random weights, with biases that matter: ``made("topk", skip=True, d_out=5, target_hook="...")``."""

    def make(arch: str, skip: bool = False, d_out: int = D_IN, **belongs: Any) -> Portable:
        tensors = extra(arch) | ({"W_skip": normal(d_out, D_IN, seed=8)} if skip else {})
        weights = Weights(
            normal(D_IN, D_SAE, seed=1), normal(D_SAE, seed=2), normal(D_SAE, d_out, seed=3), normal(d_out, seed=4), tensors
        )
        config = SAEConfig(arch=arch, d_in=D_IN, d_sae=D_SAE, k=K, skip=skip)
        known: dict[str, Any] = {"model": "some/model", "revision": "abc", "hooks": ("model.layers.3",)}
        return Portable(config, weights, Belonging(**(known | belongs)))

    return make


@pytest.fixture
def transcoder(made: Make) -> Make:
    """The same as a transcoder of an MLP."""

    def make(arch: str, **options: Any) -> Portable:
        return made(arch, **{"hooks": (HOOK,), "target_hook": TARGET, **options})

    return make


@pytest.fixture
def x() -> Tensor:
    """Raw rows whose mean is far from 0."""
    return 3 + 2 * normal(64, D_IN, seed=9)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal but for float32's rounding of numbers as large as the largest, a factor on a bias included."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.detach().abs().max()))


def assert_same_sae(found: Portable, expected: Portable, x: Tensor) -> None:
    """Equal codes and reconstructions of equal rows."""
    ours, theirs = expected.module(), found.module()
    codes = ours.encode(x)
    assert_near(theirs.encode(x), codes)
    assert_near(theirs.decode(codes, x), ours.decode(codes, x))
    assert (theirs.encode(x) > 0).sum() == (codes > 0).sum() > 0
