"""Losses of the thresholded architectures against the papers' formulas, written out by hand in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tasks.sae.architectures.base import StepBatch, StepSums
from tasks.sae.architectures.registry import architecture, layout
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import OneProcess
from tasks.sae.parameters import Parameters, view, zeros
from tests.sae.conftest import random_parameters
from tests.sae.test_gradients import D_IN, D_OUT, D_SAE, N, dead_mask, identity, random_rows


class Case:
    """One architecture's own gradients on N random rows, and what the formulas are made of."""

    def __init__(self, progress: float = 0.0, sparsity: float = 1.0, d_out: int = D_IN, **settings: object) -> None:
        self.config = SAEConfig(d_sae=D_SAE, k=4, **settings)
        self.p = random_parameters(self.config, D_IN, d_out, torch.float64)
        rows = random_rows(width=D_IN if d_out == D_IN else D_IN + d_out)
        self.x, self.y = rows[:, :D_IN], rows[:, -d_out:]
        self.z = linear(self.x, self.p.encoder, self.p.b_enc)
        self.out = zeros(layout(self.config, D_IN, d_out), torch.float64)
        kind = architecture(self.config.arch)
        self.buffers = kind.buffers(self.config)
        scaling = identity(rows.shape[1])
        batch = StepBatch(
            raw=rows,
            scaling=scaling,
            dead=dead_mask(0),
            bf16=False,
            sparsity=sparsity,
            progress=progress,
            buffers=self.buffers,
        )
        self.sums: StepSums = kind.gradients(self.config, self.p, self.out, batch, OneProcess())[0]

    @property
    def threshold(self) -> Tensor:
        return self.p.extra["log_threshold"].exp()

    def residual(self, codes: Tensor) -> Tensor:
        return codes @ self.p.W_dec + self.p.b_dec - self.y

    def assert_gradients(self, **expected: Tensor) -> None:
        for name, gradient in expected.items():
            ours = self.out.extra[name] if name in self.out.extra else getattr(self.out, name)
            assert torch.allclose(ours, gradient, rtol=1e-10, atol=1e-12), name


def window(case: Case, width: float) -> Tensor:
    return ((case.z - case.threshold).abs() < width / 2).double()


@pytest.mark.parametrize("width", [0.3, 1.5])
def test_jumprelu_gradients_are_the_papers(width: float) -> None:
    case = Case(arch="jumprelu", bandwidth=width, l0_coefficient=0.02)
    on = (case.z > case.threshold).double()
    codes = case.z * on
    e = case.residual(codes)
    to_codes = 2 * e @ case.p.W_dec.T / N
    to_pre = to_codes * on
    price = 0.02 * D_IN / N
    # Equations 11 and 12 of https://arxiv.org/abs/2407.14435, then the chain rule for log t.
    to_threshold = (window(case, width) * (-(case.threshold / width) * to_codes - price / width)).sum(0)
    case.assert_gradients(
        W_dec=codes.T @ (2 * e / N),
        b_dec=(2 * e / N).sum(0),
        encoder=to_pre.T @ case.x,
        b_enc=to_pre.sum(0),
        log_threshold=to_threshold * case.threshold,
    )
    assert window(case, width).sum() > 10
    assert float(case.sums.loss) == pytest.approx(float(e.square().sum() / N + 0.02 * D_IN * on.sum() / N))


def test_a_target_l0_is_priced_by_the_square_of_the_relative_excess() -> None:
    case = Case(arch="jumprelu_l0", bandwidth=0.8, l0_coefficient=1.0)
    on = (case.z > case.threshold).double()
    e = case.residual(case.z * on)
    excess = on.sum() / N / 4 - 1
    assert float(case.sums.loss) == pytest.approx(float(e.square().sum() / N + D_IN * excess**2))
    to_codes = 2 * e @ case.p.W_dec.T / N
    per_active = D_IN * 2 * excess / 4 / N
    to_threshold = (window(case, 0.8) * (-(case.threshold / 0.8) * to_codes - per_active / 0.8)).sum(0)
    case.assert_gradients(log_threshold=to_threshold * case.threshold)


def test_the_target_falls_from_the_first_steps_l0_as_the_sparsity_warms_up() -> None:
    half = Case(arch="jumprelu_l0", bandwidth=0.8, sparsity=0.5, l0_coefficient=1.0)
    codes = half.z * (half.z > half.threshold)
    l0 = float((codes > 0).sum()) / N
    error = float(half.residual(codes).square().sum()) / N
    assert float(half.buffers["first_l0"]) == pytest.approx(l0)
    assert float(half.sums.loss) == pytest.approx(error + D_IN * (l0 / (l0 * 4) ** 0.5 - 1) ** 2)
    unwarmed = Case(arch="jumprelu_l0", bandwidth=0.8, sparsity=0.0)
    assert float(unwarmed.sums.loss) == pytest.approx(error)


def test_tanh_jumprelu_passes_the_windows_gradient_to_all_parameters() -> None:
    width, c = 1.2, 4.0
    case = Case(arch="jumprelu_tanh", bandwidth=width, tanh_coefficient=0.7, pre_act_coefficient=0.05)
    norms = case.p.W_dec.norm(dim=1)
    on = (case.z > case.threshold).double()
    codes = case.z * on
    e, tanh = case.residual(codes), torch.tanh(c * codes * norms)
    slope = 0.7 * c * (1 - tanh.square()) / N
    reach = (case.threshold - case.z).relu()
    below = 0.05 * (reach > 0).double() * norms / N
    to_codes = 2 * e @ case.p.W_dec.T / N + slope * norms
    jump = to_codes * (case.threshold / width) * window(case, width)
    to_pre = to_codes * on + jump - below
    to_norms = (slope * codes).sum(0) + 0.05 * reach.sum(0) / N
    case.assert_gradients(
        encoder=to_pre.T @ case.x,
        b_enc=to_pre.sum(0),
        log_threshold=(-jump + below).sum(0) * case.threshold,
        W_dec=codes.T @ (2 * e / N) + to_norms[:, None] * case.p.W_dec / norms[:, None],
    )
    total = e.square().sum() + 0.7 * tanh.sum() + 0.05 * (reach * norms).sum()
    assert float(case.sums.loss) == pytest.approx(float(total / N))


def gated_by_hand(case: Case, p: Parameters) -> Tensor:
    """Equation 8 of https://arxiv.org/abs/2404.16014; ``case.p`` are the frozen weights."""
    own = linear(case.x, p.encoder)
    gate = (own + p.b_enc).relu()
    codes = (p.extra["r_mag"].exp() * own + p.extra["b_mag"]).relu() * (gate > 0)
    rest, frozen = p.b_dec, case.p.b_dec
    if "W_skip" in p.extra:
        rest = rest + linear(case.x, p.extra["W_skip"])
        frozen = frozen + linear(case.x, case.p.extra["W_skip"])
    error = (case.y - codes @ p.W_dec - rest).square().sum()
    alone = (case.y - gate @ case.p.W_dec - frozen).square().sum()
    return (error + 0.6 * gate.sum() + alone) / N


@pytest.mark.parametrize(("skip", "d_out"), [(False, D_IN), (True, D_OUT)])
def test_gated_gradients_are_those_of_its_loss_with_a_frozen_decoder(skip: bool, d_out: int) -> None:
    case = Case(arch="gated", l1_coefficient=0.6, skip=skip, d_out=d_out)
    flat = case.p.flat.clone().requires_grad_()
    loss = gated_by_hand(case, view(flat, layout(case.config, D_IN, d_out)))
    (gradient,) = torch.autograd.grad(loss, flat)
    assert torch.allclose(case.out.flat, gradient, rtol=1e-10, atol=1e-12)
    assert float(case.sums.loss) == pytest.approx(float(loss.detach()))


def test_the_gates_own_loss_gives_the_decoder_no_gradient() -> None:
    case = Case(arch="gated", l1_coefficient=0.0)
    case.p.extra["b_mag"].fill_(-1e6)  # no code is active: only the gate's own path rebuilds anything
    batch = StepBatch(raw=case.x, scaling=identity(D_IN), dead=dead_mask(0), bf16=False, buffers=case.buffers)
    case.buffers["density"].fill_(1.0)
    architecture("gated").gradients(case.config, case.p, case.out, batch, OneProcess())
    assert not case.out.W_dec.any()
    assert case.out.encoder.any()
    assert torch.allclose(case.out.b_dec, -2 * (case.y - case.p.b_dec).sum(0) / N, rtol=1e-10)


@pytest.mark.parametrize("progress", [0.1, 0.35, 0.99])
def test_p_annealing_leaves_the_penalty_as_it_was_when_p_changes(progress: float) -> None:
    case = Case(progress, arch="p_anneal", l1_coefficient=0.5)
    codes = case.z.relu()
    p, rescaled = float(case.buffers["p"]), float(case.buffers["rescaled"])
    assert p == pytest.approx(1 - 0.8 * int(progress * 10) / 10)
    assert rescaled * float(codes[codes > 0].pow(p).sum()) == pytest.approx(float(codes.sum()), rel=1e-12)
    total = case.residual(codes).square().sum() + 0.5 * codes.sum()
    assert float(case.sums.loss) == pytest.approx(float(total / N))


def test_l1_of_2023_is_the_plain_sum_of_codes() -> None:
    case = Case(arch="l1_2023", l1_coefficient=0.9)
    codes = case.z.relu()
    e = case.residual(codes)
    assert float(case.sums.loss) == pytest.approx(float((e.square().sum() + 0.9 * codes.sum()) / N))
    to_pre = (2 * e @ case.p.W_dec.T + 0.9) * (case.z > 0) / N
    case.assert_gradients(encoder=to_pre.T @ case.x, W_dec=codes.T @ (2 * e / N))
