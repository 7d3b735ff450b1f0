import pytest
import torch

from tasks.errors import InputError
from tasks.sae.ops import SparseCodes, densify
from tasks.sae.registry import ARCHITECTURES
from tasks.sae.scaling import Scaling, scaling


@pytest.mark.parametrize("arch", ["topk", "l1", "dense"])
def test_folding_leaves_codes_and_reconstructions_as_they_were_on_scaled_rows(arch, tiny):
    sae, parameters, config = tiny.sae(arch), tiny.parameters, tiny.sae(arch).config
    x = Scaling(tiny.mean, tiny.scale).apply(tiny.raw)
    codes = ARCHITECTURES[arch].activate(config, torch.addmm(parameters.b_enc, x, parameters.encoder.T))
    x_hat = codes @ parameters.W_dec + parameters.b_dec
    assert torch.allclose(sae.encode(tiny.raw) * tiny.scale, codes, rtol=1e-4, atol=1e-4)
    assert torch.allclose(sae(tiny.raw), x_hat / tiny.scale + tiny.mean, rtol=1e-4, atol=1e-3)


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
    assert scaling(torch.ones(3), 0.0).scale == 1.0


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
