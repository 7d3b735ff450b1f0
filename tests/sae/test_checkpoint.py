import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks import sae as public
from tasks.errors import ArtifactError


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
