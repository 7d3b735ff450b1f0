"""The gradients that training uses, against dense autograd of the loss as it is defined, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.names import NAMES
from tasks.sae.architectures.registry import architecture, layout
from tasks.sae.config import SAEConfig
from tasks.sae.losses import batch_top_k_codes, selected_loss, squared_error, top_k_codes, weighted_l1
from tasks.sae.mesh import OneProcess
from tasks.sae.parameters import Parameters, view, zeros
from tasks.sae.scaling import Scaling
from tests.sae.conftest import random_parameters as drawn

N, D_IN, D_OUT, D_SAE = 24, 6, 5, 40
SELECTED = {
    "topk": (top_k_codes, (40,)),
    "batchtopk": (batch_top_k_codes, (40,)),
    "matryoshka": (batch_top_k_codes, (1, 5, 20, 40)),
}


def identity(width: int, dtype: torch.dtype = torch.float64) -> Scaling:
    return Scaling(torch.zeros(width, dtype=dtype), torch.ones(width, dtype=dtype))


def random_parameters(config: SAEConfig, d_out: int = D_IN) -> Parameters:
    return drawn(config, D_IN, d_out, torch.float64)


def random_rows(seed: int = 1, width: int = D_IN) -> Tensor:
    return torch.randn(N, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dead_mask(n_dead: int) -> Tensor:
    return torch.arange(D_SAE) < n_dead


def gradients(config: SAEConfig, parameters: Parameters, x: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
    kind, d_out = architecture(config.arch), len(parameters.b_dec)
    out = zeros(layout(config, D_IN, d_out), torch.float64)
    out.flat.fill_(float("nan"))  # every number has to be written
    scaling = identity(x.shape[1])
    batch = StepBatch(raw=x, scaling=scaling, dead=dead, k=config.k, bf16=False, buffers=kind.buffers(config))
    sums, by_latent = kind.gradients(config, parameters, out, batch, OneProcess())
    if by_latent is not None:
        by_latent.write(parameters.W_dec, out)
    return sums.loss, out.flat


def oracle(loss: Callable[[Parameters], Tensor], parameters: Parameters, config: SAEConfig) -> tuple[Tensor, Tensor]:
    flat = parameters.flat.clone().requires_grad_()
    value = loss(view(flat, layout(config, D_IN, len(parameters.b_dec))))
    (gradient,) = torch.autograd.grad(value, flat)
    return value.detach(), gradient


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm()) <= 1e-10 * max(1e-30, float(b.norm()))


def assert_selected_is_exact(config: SAEConfig, parameters: Parameters, x: Tensor, dead: Tensor) -> None:
    codes, bounds = SELECTED[config.arch]

    def loss(p: Parameters) -> Tensor:
        source, target = (x[:, :D_IN], x[:, D_IN:]) if x.shape[1] > D_IN else (x, x)
        return selected_loss(config, p, source, target, dead, codes, bounds)

    assert_same(gradients(config, parameters, x, dead), oracle(loss, parameters, config))


@pytest.mark.parametrize("n_dead", [0, 1, 2, 3, 17, D_SAE])
@pytest.mark.parametrize("aux_k", [None, 0, 2, 30])
@pytest.mark.parametrize("arch", SELECTED)
def test_sparse_gradients_equal_dense_autograd(arch, n_dead, aux_k):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4, aux_k=aux_k, aux_coefficient=0.3)
    assert_selected_is_exact(config, random_parameters(config), random_rows(), dead_mask(n_dead))


@pytest.mark.parametrize("arch", SELECTED)
@pytest.mark.parametrize("skip", [False, True])
def test_sparse_gradients_of_transcoders_equal_dense_autograd(arch, skip):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4, skip=skip, aux_coefficient=0.3)
    parameters = random_parameters(config, D_OUT)
    assert_selected_is_exact(config, parameters, random_rows(width=D_IN + D_OUT), dead_mask(7))


def test_topk_gradients_equal_dense_autograd_with_ties_in_every_row():
    config = SAEConfig(arch="topk", d_sae=D_SAE, k=5)
    parameters, x, dead = random_parameters(config), random_rows(), dead_mask(10)
    # Pairs of equal latents, decoder rows too: whichever of a pair is kept, the sum over the pair is the same.
    for tensor in (parameters.encoder, parameters.b_enc, parameters.W_dec):
        tensor[::2] = tensor[1::2]
    ours, theirs = gradients(config, parameters, x, dead), oracle(
        lambda p: selected_loss(config, p, x, x, dead), parameters, config
    )  # fmt: skip
    pairs = [view(flat, layout(config, D_IN)) for flat in (ours[1], theirs[1])]
    for a, b in zip(*((p.encoder, p.W_dec, p.b_enc) for p in pairs), strict=True):
        assert torch.allclose(a[::2] + a[1::2], b[::2] + b[1::2], rtol=1e-10, atol=1e-12)
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-10)


@pytest.mark.parametrize("arch", SELECTED)
def test_sparse_gradients_equal_dense_autograd_with_rows_of_zeros_and_rows_that_no_latent_fires_on(arch):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4)
    parameters, x = random_parameters(config), random_rows()
    parameters.b_enc.fill_(-2.0)
    x[:8] = 0.0
    assert_selected_is_exact(config, parameters, x, dead_mask(10))


@pytest.mark.parametrize("arch", SELECTED)
def test_with_nothing_left_to_rebuild_gradients_are_finite(arch):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4)
    parameters = zeros(layout(config, D_IN), torch.float64)
    loss, gradient = gradients(config, parameters, torch.zeros(N, D_IN, dtype=torch.float64), dead_mask(D_SAE))
    assert float(loss) == 0.0
    assert not gradient.any()


def test_auxk_trains_encoder_and_decoder_of_dead_latents():
    config = SAEConfig(arch="topk", d_sae=D_SAE, k=1)
    parameters, x = random_parameters(config), random_rows()
    parameters.b_enc[3] = 1e4  # always the one that is kept
    out = view(gradients(config, parameters, x, dead_mask(3))[1], layout(config, D_IN))
    assert (out.encoder[:3].norm(dim=1) > 0).all()
    assert (out.W_dec[:3].norm(dim=1) > 0).all()


@pytest.mark.parametrize(("arch", "weight"), [("l1", 0.7), ("dense", 0.0)])
def test_relu_architectures_gradients_equal_dense_autograd(arch, weight):
    config = SAEConfig(arch=arch, d_sae=D_SAE, l1_coefficient=0.7)
    parameters, x = random_parameters(config), random_rows()

    def loss(p: Parameters) -> Tensor:
        codes = (x @ p.encoder.T + p.b_enc).relu()
        return (squared_error(x, codes @ p.W_dec + p.b_dec) + weight * weighted_l1(codes, p.W_dec)) / N

    assert_same(gradients(config, parameters, x, dead_mask(0)), oracle(loss, parameters, config))


@pytest.mark.parametrize("arch", NAMES)
def test_statistics_count_active_latents_and_squared_error(arch):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4)
    kind, parameters, x = architecture(arch), random_parameters(config), random_rows()
    out = zeros(layout(config, D_IN), torch.float64)
    batch = StepBatch(raw=x, scaling=identity(D_IN), dead=dead_mask(0), k=4, bf16=False, buffers=kind.buffers(config))
    sums, _ = kind.gradients(config, parameters, out, batch, OneProcess())
    assert sums.n_rows == N
    assert 0 < int(sums.n_active) <= N * D_SAE
    assert 0 < int(sums.fired.sum()) <= min(D_SAE, int(sums.n_active))
    assert 0 < float(sums.squared_error) / N < float("inf")


@pytest.mark.parametrize("arch", NAMES)
def test_bf16_gradients_point_the_same_way_as_fp32_ones(arch):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4, l1_coefficient=0.7, bandwidth=1.0)
    kind, sizes = architecture(arch), layout(config, D_IN)
    parameters = view(random_parameters(config).flat.float(), sizes)
    out = [zeros(sizes), zeros(sizes)]
    for bf16, o in zip((False, True), out, strict=True):
        batch = StepBatch(
            raw=random_rows().float(),
            scaling=identity(D_IN, torch.float32),
            dead=dead_mask(3),
            k=4,
            bf16=bf16,
            buffers=kind.buffers(config),
        )
        _, by_latent = kind.gradients(config, parameters, o, batch, OneProcess())
        if by_latent is not None:
            by_latent.write(parameters.W_dec, o)
    assert float(torch.cosine_similarity(out[0].flat, out[1].flat, dim=0)) > 0.99
