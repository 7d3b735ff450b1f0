"""L1's step at active latents only, against the dense step, in float64."""

import pytest
import torch
from torch import Tensor

from tasks.sae.architecture import Batch, StepSums, layout
from tasks.sae.config import SAEConfig
from tasks.sae.exchange import Alone
from tasks.sae.parameters import zeros
from tasks.sae.registry import architecture
from tests.sae.conftest import random_parameters
from tests.sae.test_gradients import D_IN, D_OUT, D_SAE, N, dead_mask, identity, random_rows


def step(arch: str, density: float, *, d_out: int, skip: bool, bias: float) -> tuple[StepSums, Tensor, Tensor]:
    config = SAEConfig(arch=arch, d_sae=D_SAE, l1_coefficient=0.7, skip=skip)
    parameters = random_parameters(config, D_IN, d_out, torch.float64)
    parameters.b_enc.sub_(bias)
    rows = random_rows(width=D_IN if d_out == D_IN else D_IN + d_out)
    out = zeros(layout(config, D_IN, d_out), torch.float64)
    out.flat.fill_(float("nan"))  # every number has to be written
    buffers = architecture(arch).buffers(config)
    buffers["density"].fill_(density)
    batch = Batch(raw=rows, scaling=identity(rows.shape[1]), dead=dead_mask(0), bf16=False, buffers=buffers)
    sums, by_latent = architecture(arch).gradients(config, parameters, out, batch, Alone())
    assert (by_latent is None) == (density == 1.0)
    if by_latent is not None:
        by_latent.write(parameters.W_dec, out)
    return sums, out.flat, buffers["density"]


@pytest.mark.parametrize("arch", ["l1", "l1_2023"])
@pytest.mark.parametrize(("d_out", "skip"), [(D_IN, False), (D_OUT, False), (D_OUT, True)])
@pytest.mark.parametrize("bias", [0.0, 4.0, 100.0])
def test_a_step_at_active_latents_only_equals_the_dense_one(arch: str, d_out: int, skip: bool, bias: float) -> None:
    dense, dense_gradient, dense_density = step(arch, 1.0, d_out=d_out, skip=skip, bias=bias)
    sparse, sparse_gradient, sparse_density = step(arch, 0.0, d_out=d_out, skip=skip, bias=bias)
    assert float((sparse_gradient - dense_gradient).norm()) <= 1e-10 * float(dense_gradient.norm())
    for name in ("loss", "squared_error", "n_active"):
        assert float(getattr(sparse, name)) == pytest.approx(float(getattr(dense, name)), rel=1e-10)
    assert torch.equal(sparse.fired, dense.fired)
    assert sparse.n_rows == dense.n_rows == N
    assert torch.equal(sparse_density, dense_density)
    assert float(sparse_density) == pytest.approx(float(sparse.n_active) / (N * D_SAE))


def test_once_codes_are_sparse_the_next_step_is_too() -> None:
    config = SAEConfig(arch="l1", d_sae=D_SAE, l1_coefficient=0.7)
    kind, parameters = architecture("l1"), random_parameters(config, D_IN, None, torch.float64)
    parameters.b_enc.sub_(8.0)
    out, buffers = zeros(layout(config, D_IN), torch.float64), kind.buffers(config)
    batch = Batch(raw=random_rows(), scaling=identity(D_IN), dead=dead_mask(0), bf16=False, buffers=buffers)
    ways = [kind.gradients(config, parameters, out, batch, Alone())[1] is None for _ in range(2)]
    assert ways == [True, False]
