"""SAELens' folder, against its formulas (sae-lens 6.54.12) written out here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.interchange import saelens
from tasks.interchange.named import to_safetensors
from tasks.interchange.portable import Portable
from tasks.storage.objects import open_store
from tests.interchange.conftest import D_IN, D_SAE, K, Make, assert_near, assert_same_sae, normal

KINDS = {
    "l1": "standard",
    "dense": "standard",
    "p_anneal": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "jumprelu_tanh": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka": "jumprelu",
    "gated": "gated",
}
TRANSCODERS = {
    ("l1", False): "transcoder",
    ("l1", True): "skip_transcoder",
    ("batchtopk", False): "jumprelu_transcoder",
    ("jumprelu", True): "jumprelu_skip_transcoder",
}


def theirs(settings: dict[str, Any], t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions as SAELens' classes give them."""
    if settings["apply_b_dec_to_input"]:
        x = x - t["b_dec"]
    kind = settings["architecture"]
    pre = x @ t["W_enc"] + t["b_gate" if kind == "gated" else "b_enc"]
    norms = t["W_dec"].norm(dim=-1) if settings.get("rescale_acts_by_decoder_norm") else torch.ones(len(t["W_dec"]))
    if kind == "topk":
        values, latents = (pre * norms).topk(settings["k"])
        codes = torch.zeros_like(pre).scatter(1, latents, values.relu())
    elif kind == "gated":
        codes = (pre > 0) * (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    else:
        codes = pre.relu() * (pre > t.get("threshold", torch.tensor(0.0)))
    rebuilt = (codes / norms) @ t["W_dec"] + t["b_dec"]
    return codes, rebuilt + x @ t["W_skip"].T if "W_skip" in t else rebuilt


def read_back(sae: Portable, folder: Path, changed: dict[str, Any] | None = None, **tensors: Tensor) -> Portable:
    """Write a folder, change settings or tensors in it, and read it."""
    settings, held = saelens.written(sae)
    (folder / saelens.CONFIG).write_text(json.dumps(settings | (changed or {})))
    (folder / saelens.WEIGHTS).write_bytes(to_safetensors(held | tensors))
    return saelens.read(open_store(str(folder)))


@pytest.mark.parametrize("arch", KINDS)
def test_an_exported_sae_gives_the_same_codes_by_their_formula(arch: str, made: Make, x: Tensor) -> None:
    sae = made(arch)
    settings, tensors = saelens.written(sae)
    assert settings["architecture"] == KINDS[arch]
    codes, rebuilt = theirs(settings, tensors, x)
    assert_near(codes, sae.module().encode(x))
    assert_near(rebuilt, sae.module()(x))


@pytest.mark.parametrize(("arch", "skip"), TRANSCODERS)
def test_transcoders_are_exported_with_their_width_and_path(arch: str, skip: bool, transcoder: Make, x: Tensor) -> None:
    sae = transcoder(arch, skip=skip, d_out=5)
    settings, tensors = saelens.written(sae)
    assert (settings["architecture"], settings["d_out"]) == (TRANSCODERS[arch, skip], 5)
    assert settings["metadata"]["hook_name_out"] == "model.layers.3.mlp"
    assert_near(theirs(settings, tensors, x)[1], sae.module()(x))


def test_tensors_have_the_names_and_shapes_that_their_classes_load(made: Make) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in saelens.written(made("gated"))[1].items()}
    by_latent = {name: [D_SAE] for name in ("b_gate", "r_mag", "b_mag")}
    assert shapes == {"W_enc": [D_IN, D_SAE], "W_dec": [D_SAE, D_IN], "b_dec": [D_IN], **by_latent}


def test_settings_say_the_version_without_which_they_count_as_old(made: Make) -> None:
    settings, _ = saelens.written(made("topk"))
    assert settings["k"] == K
    assert settings["metadata"]["sae_lens_version"] == "6.54.12"
    assert settings["metadata"]["model_name"] == "some/model"
    assert settings["metadata"]["hook_name"] == "model.layers.3"
    json.dumps(settings)


@pytest.mark.parametrize("arch", KINDS)
def test_an_sae_that_went_there_and_back_is_the_same(arch: str, made: Make, x: Tensor, tmp_path: Path) -> None:
    assert_same_sae(read_back(made(arch), tmp_path), made(arch), x)


@pytest.mark.parametrize(("arch", "skip"), TRANSCODERS)
def test_a_transcoder_that_went_there_and_back_is_the_same(
    arch: str, skip: bool, transcoder: Make, x: Tensor, tmp_path: Path
) -> None:
    sae = transcoder(arch, skip=skip, d_out=5)
    found = read_back(sae, tmp_path)
    assert_same_sae(found, sae, x)
    assert (found.belongs.hook, found.belongs.target_hook) == (sae.belongs.hook, sae.belongs.target_hook)


@pytest.mark.parametrize("arch", ["l1", "topk", "jumprelu", "gated"])
def test_a_bias_that_they_subtract_from_rows_is_folded(arch: str, made: Make, x: Tensor, tmp_path: Path) -> None:
    found = read_back(made(arch), tmp_path, {"apply_b_dec_to_input": True})
    settings, tensors = saelens.written(made(arch))
    codes, rebuilt = theirs(settings | {"apply_b_dec_to_input": True}, tensors, x)
    assert_near(found.module().encode(x), codes)
    assert_near(found.module()(x), rebuilt)


def test_selection_by_decoder_norm_is_folded(made: Make, x: Tensor, tmp_path: Path) -> None:
    changed = {"rescale_acts_by_decoder_norm": True}
    found = read_back(made("topk"), tmp_path, changed).module()
    settings, tensors = saelens.written(made("topk"))
    codes, rebuilt = theirs(settings | changed, tensors, x)
    assert_near(found.encode(x), codes)
    assert_near(found(x), rebuilt)


def test_a_recorded_factor_on_rows_is_folded(made: Make, x: Tensor, tmp_path: Path) -> None:
    (tmp_path / saelens.SCALER).write_text('{"scaling_factor": 0.25}')
    found = read_back(made("jumprelu"), tmp_path, {"normalize_activations": "expected_average_only_in"}).module()
    settings, tensors = saelens.written(made("jumprelu"))
    codes, rebuilt = theirs(settings, tensors, x * 0.25)
    assert_near(found.encode(x), codes)
    assert_near(found(x), rebuilt * 4)


def test_settings_from_before_6_0_stand_in_one_level(made: Make, x: Tensor, tmp_path: Path) -> None:
    _, tensors = saelens.written(made("topk"))
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "hook_point": "blocks.3.hook_resid_post"}
    (tmp_path / saelens.CONFIG).write_text(json.dumps({"d_in": D_IN, "d_sae": D_SAE, "model_name": "gpt2", **old}))
    (tmp_path / saelens.WEIGHTS).write_bytes(to_safetensors(tensors | {"scaling_factor": torch.ones(D_SAE)}))
    found = saelens.read(open_store(str(tmp_path)))
    codes, _ = theirs({"architecture": "topk", "apply_b_dec_to_input": True, "k": K}, tensors, x)
    assert_near(found.module().encode(x), codes)
    assert (found.belongs.model, found.belongs.hook) == ("gpt2", "blocks.3.hook_resid_post")


def test_a_threshold_below_zero_is_zero_since_they_rectify(made: Make, x: Tensor, tmp_path: Path) -> None:
    found = read_back(made("jumprelu"), tmp_path, threshold=torch.full((D_SAE,), -9.0)).module()
    assert (found.encode(x) >= 0).all()


def test_half_precision_weights_become_float32(made: Make, x: Tensor, tmp_path: Path) -> None:
    W_enc = made("l1").weights.W_enc.bfloat16()
    found = read_back(made("l1"), tmp_path, W_enc=W_enc)
    assert found.weights.W_enc.dtype == torch.float32
    assert torch.equal(found.weights.W_enc, W_enc.float())


@pytest.mark.parametrize("arch", ["topk", "gated"])
def test_transcoders_of_kinds_that_they_lack_are_refused(arch: str, transcoder: Make) -> None:
    with pytest.raises(
        InputError, match=f"transcoders of ReLU and JumpReLU only, so it cannot hold one of architecture {arch}"
    ):
        saelens.written(transcoder(arch))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"architecture": "temporal"}, "architecture is 'temporal', for which saemill has none"),
        ({"architecture": "matryoshka_batchtopk"}, "It is a training checkpoint"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm', which centres and scales each row by itself"),
        ({"normalize_activations": "expected_average_only_in"}, "needs a factor on rows"),
        ({"normalize_activations": "covariance_whitening"}, "whitens rows"),
        ({"architecture": "topk", "k": "many"}, "k is 'many'; expected was one of type int"),
        ({"architecture": "topk"}, "k is missing"),
        ({"architecture": "topk", "k": 99}, "k is 99 but must lie in 1..24"),
        ({"architecture": "gated"}, "lacks b_gate, r_mag, b_mag"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes'"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(
    changed: dict[str, Any], sentence: str, made: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_back(made("l1"), tmp_path, changed)


def test_a_factor_on_codes_that_is_not_one_is_refused(made: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="also holds scaling_factor, unknown to this architecture"):
        read_back(made("l1"), tmp_path, scaling_factor=normal(D_SAE, seed=0))
