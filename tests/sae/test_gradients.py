"""The gradients that training uses, against dense autograd of the loss as it is defined, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.sae.architecture import Batch
from tasks.sae.config import SAEConfig
from tasks.sae.exchange import Alone
from tasks.sae.losses import relu_codes, squared_error, topk_loss, weighted_l1
from tasks.sae.parameters import Parameters, view, zeros
from tasks.sae.registry import ARCHITECTURES
from tasks.sae.scaling import Scaling

N, D_IN, D_SAE = 24, 6, 40
IDENTITY = Scaling(torch.zeros(D_IN, dtype=torch.float64), 1.0)


def random_parameters(seed: int = 0) -> Parameters:
    parameters = zeros(D_IN, D_SAE, torch.float64)
    parameters.flat.copy_(
        torch.randn(len(parameters.flat), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    return parameters


def random_rows(seed: int = 1) -> Tensor:
    return torch.randn(N, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dead_mask(n_dead: int) -> Tensor:
    return torch.arange(D_SAE) < n_dead


def gradients(config: SAEConfig, parameters: Parameters, x: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
    out = zeros(D_IN, D_SAE, torch.float64)
    out.flat.fill_(float("nan"))  # every number has to be written
    batch = Batch(x, IDENTITY, dead, bf16=False)
    sums = ARCHITECTURES[config.arch].gradients(config, parameters, out, batch, Alone())
    return sums.loss, out.flat


def oracle(loss: Callable[[Parameters], Tensor], parameters: Parameters) -> tuple[Tensor, Tensor]:
    flat = parameters.flat.clone().requires_grad_()
    value = loss(view(flat, D_IN, D_SAE))
    (gradient,) = torch.autograd.grad(value, flat)
    return value.detach(), gradient


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm()) <= 1e-10 * max(1e-30, float(b.norm()))


@pytest.mark.parametrize("n_dead", [0, 1, 2, 3, 17, D_SAE])
@pytest.mark.parametrize("aux_k", [None, 0, 2, 30])
def test_topk_gradients_equal_dense_autograd(n_dead, aux_k):
    config = SAEConfig(d_sae=D_SAE, k=4, aux_k=aux_k, aux_coefficient=0.3)
    parameters, x, dead = random_parameters(), random_rows(), dead_mask(n_dead)
    assert_same(gradients(config, parameters, x, dead), oracle(lambda p: topk_loss(config, p, x, dead), parameters))


def test_topk_gradients_equal_dense_autograd_with_ties_in_every_row():
    config = SAEConfig(d_sae=D_SAE, k=5)
    parameters, x, dead = random_parameters(), random_rows(), dead_mask(10)
    parameters.encoder[::2] = parameters.encoder[1::2]
    parameters.b_enc[::2] = parameters.b_enc[1::2]
    assert_same(gradients(config, parameters, x, dead), oracle(lambda p: topk_loss(config, p, x, dead), parameters))


def test_topk_gradients_equal_dense_autograd_with_rows_of_zeros_and_rows_that_no_latent_fires_on():
    config = SAEConfig(d_sae=D_SAE, k=4)
    parameters, x, dead = random_parameters(), random_rows(), dead_mask(10)
    parameters.b_enc.fill_(-2.0)
    x[:8] = 0.0
    assert_same(gradients(config, parameters, x, dead), oracle(lambda p: topk_loss(config, p, x, dead), parameters))


def test_topk_with_nothing_left_to_rebuild_has_finite_gradients():
    config = SAEConfig(d_sae=D_SAE, k=4)
    parameters = zeros(D_IN, D_SAE, torch.float64)
    loss, gradient = gradients(config, parameters, torch.zeros(N, D_IN, dtype=torch.float64), dead_mask(D_SAE))
    assert float(loss) == 0.0
    assert not gradient.any()


def test_auxk_trains_encoder_and_decoder_of_dead_latents():
    config = SAEConfig(d_sae=D_SAE, k=1)
    parameters, x = random_parameters(), random_rows()
    parameters.b_enc[3] = 1e4  # always the one that is kept
    out = view(gradients(config, parameters, x, dead_mask(3))[1], D_IN, D_SAE)
    assert (out.encoder[:3].norm(dim=1) > 0).all()
    assert (out.W_dec[:3].norm(dim=1) > 0).all()


@pytest.mark.parametrize(("arch", "weight"), [("l1", 0.7), ("dense", 0.0)])
def test_relu_architectures_gradients_equal_dense_autograd(arch, weight):
    config = SAEConfig(arch=arch, d_sae=D_SAE, l1_coefficient=0.7)
    parameters, x = random_parameters(), random_rows()

    def loss(p: Parameters) -> Tensor:
        codes = relu_codes(p, x)
        return (squared_error(x, codes @ p.W_dec + p.b_dec) + weight * weighted_l1(codes, p.W_dec)) / N

    assert_same(gradients(config, parameters, x, dead_mask(0)), oracle(loss, parameters))


@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_statistics_count_active_latents_and_squared_error(arch):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4)
    parameters, x = random_parameters(), random_rows()
    out = zeros(D_IN, D_SAE, torch.float64)
    sums = ARCHITECTURES[arch].gradients(config, parameters, out, Batch(x, IDENTITY, dead_mask(0), bf16=False), Alone())
    codes = ARCHITECTURES[arch].activate(config, torch.addmm(parameters.b_enc, x, parameters.encoder.T))
    error = squared_error(x, codes @ parameters.W_dec + parameters.b_dec)
    assert sums.n_rows == N
    assert float(sums.squared_error) == pytest.approx(float(error))
    assert int(sums.n_active) == int((codes > 0).sum())
    assert torch.equal(sums.fired, (codes > 0).any(0))


@pytest.mark.parametrize("arch", ["topk", "l1", "dense"])
def test_bf16_gradients_point_the_same_way_as_fp32_ones(arch):
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4, l1_coefficient=0.7)
    parameters = view(random_parameters().flat.float(), D_IN, D_SAE)
    batch = [
        Batch(random_rows().float(), Scaling(torch.zeros(D_IN), 1.0), dead_mask(3), bf16=bf16) for bf16 in (False, True)
    ]
    out = [zeros(D_IN, D_SAE), zeros(D_IN, D_SAE)]
    for b, o in zip(batch, out, strict=True):
        ARCHITECTURES[arch].gradients(config, parameters, o, b, Alone())
    assert float(torch.cosine_similarity(out[0].flat, out[1].flat, dim=0)) > 0.99
