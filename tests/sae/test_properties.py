"""What must hold of every architecture whatever its maths: symmetries of the loss, and of the finished SAE."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear

from tasks.sae import SparseAutoencoder, load, save
from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.batchtopk import _largest
from tasks.sae.architectures.names import NAMES
from tasks.sae.architectures.pre_activations import PreActivations
from tasks.sae.architectures.registry import architecture, layout
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import OneProcess
from tasks.sae.parameters import Parameters, view, zeros
from tasks.sae.scaling import Folding, Scaling, Weights, fold, folding
from tests.sae.conftest import random_parameters
from tests.sae.test_gradients import D_IN, D_OUT, D_SAE, dead_mask, identity, random_rows

SELECTED = ("topk", "batchtopk", "matryoshka")


def gradients(config: SAEConfig, p: Parameters, x: Tensor, dead: Tensor) -> tuple[float, Parameters]:
    kind, sizes = architecture(config.arch), layout(config, D_IN)
    out = zeros(sizes, torch.float64)
    batch = StepBatch(raw=x, scaling=identity(D_IN), dead=dead, k=config.k, bf16=False, buffers=kind.buffers(config))
    sums, by_latent = kind.gradients(config, p, out, batch, OneProcess())
    if by_latent is not None:
        by_latent.write(p.W_dec, out)
    return float(sums.loss), out


def case(arch: str, **changes: object) -> tuple[SAEConfig, Parameters]:
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4, bandwidth=0.7, **changes)
    return config, random_parameters(config, D_IN, None, torch.float64)


def permuted(p: Parameters, config: SAEConfig, order: Tensor) -> Parameters:
    """The same latents in another order."""
    moved = view(p.flat.clone(), layout(config, D_IN))
    for name in ("encoder", "W_dec", "b_enc"):
        getattr(moved, name).copy_(getattr(p, name)[order])
    for name, tensor in p.extra.items():
        moved.extra[name].copy_(tensor[order])
    return moved


@pytest.mark.parametrize("arch", NAMES)
def test_latents_in_another_order_have_the_same_gradients_in_that_order(arch: str) -> None:
    # Only Matryoshka's prefixes tell latents apart: with one prefix there is no order.
    config, p = case(arch, **({"prefixes": (D_SAE,)} if arch == "matryoshka" else {}))
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(3))
    loss, gradient = gradients(config, p, random_rows(), dead_mask(9))
    moved_loss, moved = gradients(config, permuted(p, config, order), random_rows(), dead_mask(9)[order])
    assert moved_loss == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(moved.flat, permuted(gradient, config, order).flat, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("arch", NAMES)
def test_rows_in_another_order_have_the_same_gradients(arch: str) -> None:
    config, p = case(arch)
    order = torch.randperm(len(random_rows()), generator=torch.Generator().manual_seed(3))
    loss, gradient = gradients(config, p, random_rows(), dead_mask(9))
    moved_loss, moved = gradients(config, p, random_rows()[order], dead_mask(9))
    assert moved_loss == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(moved.flat, gradient.flat, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("arch", SELECTED)
def test_with_k_of_all_latents_it_is_a_dense_relu_autoencoder(arch: str) -> None:
    config, p = case(arch, prefixes=(D_SAE,) if arch == "matryoshka" else None)
    x = random_rows()
    loss, gradient = gradients(replace(config, k=D_SAE), p, x, dead_mask(0))
    dense_loss, dense = gradients(SAEConfig(arch="dense", d_sae=D_SAE), p, x, dead_mask(0))
    # The one's error is a share of the variance, the other's a sum over features.
    assert loss * D_IN == pytest.approx(dense_loss, rel=1e-12)
    assert torch.allclose(gradient.flat * D_IN, dense.flat, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("arch", ["topk", "dense", "l1", "l1_2023", "p_anneal", "gated"])
@pytest.mark.parametrize("factor", [0.01, 300.0])
def test_codes_grow_with_the_activations_where_no_level_is_fixed(arch: str, factor: float) -> None:
    config, p = case(arch)
    p.b_enc.zero_()
    p.b_dec.zero_()
    extra = {name: torch.zeros_like(tensor) for name, tensor in p.extra.items()}
    sae = SparseAutoencoder(config, Weights(p.encoder.T, p.b_enc, p.W_dec, p.b_dec, extra))
    x = random_rows()
    assert torch.allclose(sae.encode(factor * x), factor * sae.encode(x), rtol=1e-9)
    assert torch.allclose(sae(factor * x), factor * sae(x), rtol=1e-9)


def test_the_size_of_decoder_rows_can_go_into_the_codes() -> None:
    config, p = case("l1")
    loss, _ = gradients(config, p, random_rows(), dead_mask(0))
    norms = p.W_dec.norm(dim=1, keepdim=True)
    folded = view(p.flat.clone(), layout(config, D_IN))
    folded.W_dec.div_(norms)
    folded.encoder.mul_(norms)
    folded.b_enc.mul_(norms.squeeze(1))
    assert gradients(config, folded, random_rows(), dead_mask(0))[0] == pytest.approx(loss, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.data())
def test_batchtopk_keeps_its_budget_whatever_level_it_looks_from(n: int, d_sae: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, d_sae))
    level = data.draw(st.sampled_from([0.0, 1e-6, 0.3, 2.0, 50.0]))
    pre_acts = torch.randn(n, d_sae, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    p = zeros(layout(SAEConfig(arch="batchtopk", d_sae=d_sae, k=k), d_sae), torch.float32)
    p.encoder.copy_(torch.eye(d_sae))
    batch = StepBatch(raw=pre_acts, scaling=identity(d_sae), dead=torch.zeros(d_sae, dtype=torch.bool), bf16=False)
    threshold = torch.tensor([level], dtype=torch.float64)
    (found,) = _largest(PreActivations(p, pre_acts, batch), [], n * k, threshold, OneProcess(), torch.float32)
    wanted = pre_acts.flatten().topk(n * k).values
    wanted = wanted[wanted > 0]
    assert torch.equal(found.values.sort(descending=True).values, wanted)
    assert torch.equal(pre_acts[found.rows.long(), found.latents.long()], found.values)


def uneven(width: int, seed: int) -> Scaling:
    generator = torch.Generator().manual_seed(seed)
    return Scaling(5 * torch.randn(width, generator=generator), torch.rand(width, generator=generator) + 0.2)


@pytest.mark.parametrize("arch", NAMES)
@pytest.mark.parametrize("skip", [False, True])
def test_folding_keeps_the_maths_where_every_feature_has_its_own_scale_and_the_output_is_another(
    arch: str, skip: bool
) -> None:
    config = SAEConfig(arch=arch, d_sae=D_SAE, k=4, skip=skip)
    kind, p = architecture(arch), random_parameters(config, D_IN, D_OUT)
    source, target = uneven(D_IN, 4), uneven(D_OUT, 5)
    buffers = {name: tensor + 0.7 for name, tensor in kind.buffers(config).items()}
    raw = 3 * random_rows().float() + source.mean
    x = source.apply(raw).double()

    plain = kind.finished(p, buffers, Folding(1.0, torch.zeros(D_SAE, dtype=torch.float64)))
    weights = Weights(p.encoder.T, p.b_enc.double(), p.W_dec, p.b_dec, {name: t.double() for name, t in plain.items()})
    codes = kind.activate(config, linear(x, p.encoder.double(), p.b_enc.double()), weights)
    y = codes @ p.W_dec.double() + p.b_dec.double()
    if skip:
        y += linear(x, p.extra["W_skip"].double())

    sae = SparseAutoencoder(config, fold(p, source, target, kind.finished(p, buffers, folding(p, source))))
    sae.requires_grad_(requires_grad=False)
    expected = y / target.scale.double() + target.mean.double()
    assert (codes > 0).any()
    assert torch.equal(sae.encode(raw) > 0, codes > 0)
    assert float((sae(raw) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", NAMES)
def test_a_saved_sae_encodes_and_decodes_as_before_in_every_precision(arch: str, dtype: torch.dtype, tiny, tmp_path) -> None:
    sae, raw = tiny.sae(arch), tiny.raw.to(dtype)
    save(sae, str(tmp_path), {})
    loaded = load(str(tmp_path))
    assert loaded.config == sae.config
    assert torch.equal(loaded.encode(raw), sae.encode(raw))
    assert torch.equal(loaded(raw), sae(raw))
    assert torch.equal(loaded.encode(raw), sae.encode(raw.float()))
