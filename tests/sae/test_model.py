import pytest
import torch

from tasks.errors import InputError
from tasks.sae.architectures.names import NAMES
from tasks.sae.architectures.registry import architecture
from tasks.sae.ops import SparseCodes, densify
from tasks.sae.scaling import Folding, Weights, scaling


@pytest.mark.parametrize("arch", NAMES)
def test_folding_leaves_codes_and_reconstructions_as_they_were_on_scaled_rows(arch, tiny):
    sae, p, config = tiny.sae(arch), tiny.parameters(arch), tiny.config(arch)
    x = tiny.scaling.apply(tiny.raw)
    unfolded = architecture(arch).finished(p, tiny.buffers(arch), Folding(1.0, torch.zeros(32, dtype=torch.float64)))
    weights = Weights(p.encoder.T, p.b_enc, p.W_dec, p.b_dec, {name: t.float() for name, t in unfolded.items()})
    codes = architecture(arch).activate(config, torch.addmm(p.b_enc, x, p.encoder.T), weights)
    x_hat = codes @ p.W_dec + p.b_dec
    assert (codes > 0).any()
    assert torch.allclose(sae.encode(tiny.raw) * 0.3, codes, rtol=1e-4, atol=1e-4)
    assert torch.allclose(sae(tiny.raw), x_hat / 0.3 + tiny.mean, rtol=1e-4, atol=1e-3)


def test_scaled_rows_are_centred_with_mean_squared_norm_d_in(tiny):
    raw = tiny.raw
    mean = raw.mean(0)
    x = scaling(mean, float((raw - mean).square().sum(1).mean())).apply(raw)
    assert torch.allclose(x.mean(0), torch.zeros(8), atol=1e-5)
    assert float(x.square().sum(1).mean()) == pytest.approx(8, rel=1e-5)


def test_scaling_leaves_the_raw_rows_alone(tiny):
    raw = tiny.raw.clone()
    scaling(raw.mean(0), 2.0).apply(raw)
    assert torch.equal(raw, tiny.raw)


def test_constant_activations_keep_a_finite_scale():
    assert scaling(torch.ones(3), 0.0).scale.tolist() == [1, 1, 1]


def test_topk_codes_have_k_positive_latents_at_most(tiny):
    codes = tiny.sae().encode(tiny.raw)
    assert codes.shape == (64, 32)
    assert int((codes > 0).sum(1).max()) <= 4


def test_sparse_codes_say_the_same_as_dense_ones(tiny):
    sae = tiny.sae()
    values, indices = sae.encode_sparse(tiny.raw)
    assert values.shape == indices.shape == (64, 4)
    assert torch.equal(densify(SparseCodes(values, indices), 32), sae.encode(tiny.raw))
    assert torch.allclose(sae.decode_sparse(values, indices), sae(tiny.raw), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_activations_are_encoded_in_float32(dtype, tiny):
    raw = tiny.raw.clone().to(dtype)
    assert tiny.sae().encode(raw).dtype == torch.float32
    assert torch.equal(tiny.sae().encode(raw), tiny.sae().encode(raw.float()))


def test_activations_of_another_width_are_refused_with_both_widths(tiny):
    with pytest.raises(InputError, match=r"\[2, 5\].*d_in = 8"):
        tiny.sae().encode(torch.zeros(2, 5))


def test_sparse_codes_are_refused_where_no_number_of_latents_is_fixed(tiny):
    with pytest.raises(InputError, match=r"l1.*encode_sparse is for topk"):
        tiny.sae("l1").encode_sparse(tiny.raw)


@pytest.mark.parametrize("shape", [(8,), (2, 8), (2, 3, 8), (1, 2, 3, 8), (0, 8), (2, 0, 8)])
@pytest.mark.parametrize("arch", ["topk", "batchtopk", "gated"])
def test_rows_in_any_arrangement_are_encoded_and_decoded_each_by_itself(arch, shape, tiny):
    sae, x = tiny.sae(arch), torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 20
    codes = sae.encode(x)
    assert codes.shape == (*shape[:-1], 32)
    assert torch.equal(codes.reshape(-1, 32), sae.encode(x.reshape(-1, 8)))
    assert sae.decode(codes).shape == sae(x).shape == shape
    assert torch.allclose(sae.decode(codes).reshape(-1, 8), sae(x.reshape(-1, 8)), rtol=1e-5, atol=1e-4)
    if sae.keeps_k:
        values, indices = sae.encode_sparse(x)
        assert values.shape == indices.shape == (*shape[:-1], 4)
        assert sae.decode_sparse(values, indices).shape == shape


@pytest.mark.parametrize("x", [torch.zeros(()), torch.zeros(0), torch.zeros(2, 3, 7), torch.zeros(8, 2)])
def test_what_does_not_end_in_d_in_is_refused(x, tiny):
    with pytest.raises(InputError, match=r"takes \[\.\.\., 8\]"):
        tiny.sae().encode(x)


def test_codes_of_another_width_are_refused(tiny):
    with pytest.raises(InputError, match="32 latents"):
        tiny.sae().decode(torch.zeros(2, 31))
