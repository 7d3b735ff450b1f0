import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks import sae as public
from tasks.errors import ArtifactError, InputError
from tasks.sae.belonging import Belonging


@pytest.fixture
def saved(tmp_path, tiny):
    public.save(tiny.sae(), str(tmp_path), {"hook": "model.layers.8"})
    return tmp_path


def test_a_saved_sae_loads_with_equal_bits(saved, tiny):
    loaded = public.load(str(saved))
    assert torch.equal(loaded.encode(tiny.raw), tiny.sae().encode(tiny.raw))
    assert torch.equal(loaded(tiny.raw), tiny.sae()(tiny.raw))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_files_hold_the_contracts_names_and_shapes(saved):
    tensors = load_file(saved / "sae.safetensors")
    assert {name: list(t.shape) for name, t in tensors.items()} == {
        "W_enc": [8, 32], "b_enc": [32], "W_dec": [32, 8], "b_dec": [8],
    }  # fmt: skip
    config = json.loads((saved / "config.json").read_text())
    assert (config["arch"], config["d_in"], config["d_sae"], config["k"]) == ("topk", 8, 32, 4)
    assert config["hook"] == "model.layers.8"


@pytest.mark.s3
def test_an_sae_goes_through_a_bucket_unchanged(s3, tiny):
    public.save(tiny.sae(), f"{s3}/saes/one", {})
    assert torch.equal(public.load(f"{s3}/saes/one").encode(tiny.raw), tiny.sae().encode(tiny.raw))


def test_an_absent_file_is_named(saved):
    (saved / "sae.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"sae\.safetensors is missing"):
        public.load(str(saved))


def test_truncated_weights_are_named(saved):
    file = saved / "sae.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"sae\.safetensors is damaged"):
        public.load(str(saved))


def test_a_tensor_that_is_not_there_is_named(saved):
    tensors = load_file(saved / "sae.safetensors")
    del tensors["b_enc"]
    save_file(tensors, saved / "sae.safetensors")
    with pytest.raises(ArtifactError, match="lacks b_enc"):
        public.load(str(saved))


@pytest.mark.parametrize("text", ["{", "{}", '{"format_version": 1, "k": -1}', "[]"])
def test_a_damaged_config_is_named(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"config\.json is damaged"):
        public.load(str(saved))


def test_config_and_weights_must_agree(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"d_sae": 16}))
    with pytest.raises(ArtifactError, match=r"d_sae 16.*\[8, 32\]"):
        public.load(str(saved))


def test_a_later_format_is_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"format_version": 2}))
    with pytest.raises(ArtifactError, match="format_version 2"):
        public.load(str(saved))


def test_where_no_sae_is_that_is_said_and_nothing_is_to_be_deleted(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for uri in ("/nope", str(tmp_path), str(tmp_path / "notes.txt"), str(tmp_path / "notes.txt/x")):
        with pytest.raises(InputError, match="There is no SAE at") as refused:
            public.load(uri)
        assert "elete" not in str(refused.value)


def test_another_librarys_config_is_told_from_a_damaged_sae_and_not_to_be_deleted(saved):
    (saved / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ArtifactError, match="names no format_version and arch") as refused:
        public.load(str(saved))
    assert "elete" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    tensors = load_file(saved / "sae.safetensors")
    tensors["b_dec"][3] = value
    save_file(tensors, saved / "sae.safetensors")
    with pytest.raises(ArtifactError, match="b_dec has numbers that are not finite"):
        public.load(str(saved))


@pytest.mark.parametrize("value", [2.5, True, "4", [4], 10**400])
def test_a_k_that_is_no_number_of_latents_is_refused(saved, value):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"k": value}))
    with pytest.raises(ArtifactError, match=r"config\.json is damaged"):
        public.load(str(saved))


def test_wrong_bytes_are_told_where_a_manifest_knows_the_right_ones(saved):
    objects = {name: {"sha256": hashlib.sha256((saved / name).read_bytes()).hexdigest()} for name in saved_files(saved)}
    (saved / "manifest.json").write_text(json.dumps({"objects": objects}))
    public.load(str(saved))
    tensors = load_file(saved / "sae.safetensors")
    tensors["W_enc"][1, 1] += 1
    save_file(tensors, saved / "sae.safetensors")
    with pytest.raises(ArtifactError, match=r"sae\.safetensors is not what manifest\.json says"):
        public.load(str(saved))


def saved_files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")


def test_a_loaded_sae_knows_where_it_belongs_and_prints_itself(tmp_path, tiny):
    facts = {"hook": "model.layers.8", "model": "some/model", "revision": "abc", "training": {"tokens": 1_000_000}}
    public.save(tiny.sae(), str(tmp_path), facts)
    sae = public.load(str(tmp_path))
    assert (sae.model, sae.hook, sae.belonging.layer, sae.belonging.revision) == ("some/model", "model.layers.8", 8, "abc")
    assert repr(sae) == (
        "SparseAutoencoder(topk, d_in 8, d_sae 32, k 4; model some/model, hook model.layers.8, 1,000,000 training tokens)"
    )


def test_an_sae_of_nothing_known_prints_itself_too(saved, tiny):
    assert repr(tiny.sae()) == "SparseAutoencoder(topk, d_in 8, d_sae 32, k 4)"
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"hook": [1], "model": 3, "training": "x", "hooks": {}}))
    assert repr(public.load(str(saved))) == repr(tiny.sae())


def test_a_crosscoder_names_all_its_hooks_and_a_transcoder_what_it_rebuilds():
    crosscoder = Belonging.of({"hook": "a.1", "hooks": ["a.1", "a.2"], "target_hook": "b"})
    assert (crosscoder.hook, crosscoder.layer) == (None, None)
    assert str(crosscoder) == "hooks a.1, a.2, rebuilds b"
