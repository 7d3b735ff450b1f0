"""dictionary_learning's folder, against its formulas (dictionary-learning 0.1.0) written out here."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.interchange import dictionary_learning
from tasks.interchange.portable import Portable
from tasks.storage.objects import open_store
from tests.interchange.conftest import D_IN, D_SAE, K, Make, assert_near, assert_same_sae, normal

CLASSES = {
    "l1": "AutoEncoderNew",
    "dense": "AutoEncoderNew",
    "topk": "AutoEncoderTopK",
    "batchtopk": "JumpReluAutoEncoder",
    "matryoshka": "JumpReluAutoEncoder",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
}


def theirs(name: str, t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions as the class of that name gives them, once ``load_dictionary`` has loaded it."""
    if name == "AutoEncoder":
        norms = t["decoder.weight"].norm(dim=0)
        codes = ((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu() * norms
        return codes, codes @ (t["decoder.weight"] / norms).T + t["bias"]
    if name == "AutoEncoderNew":
        codes = (x @ t["encoder.weight"].T + t["encoder.bias"]).relu()
        return codes, codes @ t["decoder.weight"].T + t["decoder.bias"]
    if name == "GatedAutoEncoder":
        shared = (x - t["decoder_bias"]) @ t["encoder.weight"].T
        codes = (shared + t["gate_bias"] > 0) * (t["r_mag"].exp() * shared + t["mag_bias"]).relu()
        return codes, codes @ t["decoder.weight"].T + t["decoder_bias"]
    if name == "JumpReluAutoEncoder":
        pre = x @ t["W_enc"] + t["b_enc"]
        codes = (pre * (pre > t["threshold"])).relu()
        return codes, codes @ t["W_dec"] + t["b_dec"]
    if name == "MatryoshkaBatchTopKSAE":
        pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
        codes = pre * (pre > t["threshold"])
        return codes, codes @ t["W_dec"] + t["b_dec"]
    pre = ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    if name == "AutoEncoderTopK":
        values, latents = pre.topk(int(t["k"]))
        codes = torch.zeros_like(pre).scatter(1, latents, values)
    else:
        codes = pre * (pre > t["threshold"])
    return codes, codes @ t["decoder.weight"].T + t["b_dec"]


def held_by(name: str) -> dict[str, Tensor]:
    """Random tensors of one of their classes."""
    linear = {"encoder.weight": normal(D_SAE, D_IN, seed=1), "decoder.weight": normal(D_IN, D_SAE, seed=2)}
    bias, b_dec, k = normal(D_SAE, seed=3), normal(D_IN, seed=4), torch.tensor(K, dtype=torch.int)
    plain = {"W_enc": linear["encoder.weight"].T, "W_dec": linear["decoder.weight"].T, "b_enc": bias, "b_dec": b_dec}
    gated = {"gate_bias": bias, "mag_bias": normal(D_SAE, seed=5), "r_mag": normal(D_SAE, seed=6) / 4}
    limit = {"k": k, "threshold": torch.tensor(1.5)}
    return {
        "AutoEncoder": linear | {"encoder.bias": bias, "bias": b_dec},
        "AutoEncoderNew": linear | {"encoder.bias": bias, "decoder.bias": b_dec},
        "GatedAutoEncoder": linear | gated | {"decoder_bias": b_dec},
        "AutoEncoderTopK": linear | limit | {"encoder.bias": bias, "b_dec": b_dec},
        "BatchTopKSAE": linear | limit | {"encoder.bias": bias, "b_dec": b_dec},
        "MatryoshkaBatchTopKSAE": plain | limit | {"group_sizes": torch.tensor([8, 16])},
        "JumpReluAutoEncoder": plain | {"threshold": normal(D_SAE, seed=7)},
    }[name]


def written_by(name: str, tensors: dict[str, Tensor], folder: Path, **trainer: Any) -> Portable:
    """A folder as the library would write it, read."""
    torch.save(tensors, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "lm_name": "gpt2", **trainer}}))
    return dictionary_learning.read(open_store(str(folder)))


@pytest.mark.parametrize("arch", CLASSES)
def test_an_exported_sae_gives_the_same_codes_by_their_formula(arch: str, made: Make, x: Tensor) -> None:
    sae = made(arch)
    settings, tensors = dictionary_learning.written(sae)
    assert settings["trainer"]["dict_class"] == CLASSES[arch]
    codes, rebuilt = theirs(CLASSES[arch], tensors, x)
    assert_near(codes, sae.module().encode(x))
    assert_near(rebuilt, sae.module()(x))


def test_files_hold_plain_tensors_and_where_the_sae_belongs(made: Make) -> None:
    files = dictionary_learning.files(made("topk"))
    assert list(files) == ["ae.pt", "config.json"]
    tensors = torch.load(io.BytesIO(files["ae.pt"]), weights_only=True)
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == {
        "encoder.weight": [D_SAE, D_IN],
        "encoder.bias": [D_SAE],
        "decoder.weight": [D_IN, D_SAE],
        "b_dec": [D_IN],
        "k": [],
        "threshold": [],
    }
    assert (tensors["k"].dtype, float(tensors["threshold"])) == (torch.int, -1)
    trainer = json.loads(files["config.json"])["trainer"]
    assert (trainer["k"], trainer["layer"], trainer["submodule_name"]) == (K, 3, "model.layers.3")


def test_equal_saes_give_equal_bytes(made: Make) -> None:
    assert dictionary_learning.files(made("gated")) == dictionary_learning.files(made("gated"))


@pytest.mark.parametrize("arch", CLASSES)
def test_an_sae_that_went_there_and_back_is_the_same(arch: str, made: Make, x: Tensor, tmp_path: Path) -> None:
    for key, data in dictionary_learning.files(made(arch)).items():
        (tmp_path / key).write_bytes(data)
    assert_same_sae(dictionary_learning.read(open_store(str(tmp_path))), made(arch), x)


@pytest.mark.parametrize("name", dictionary_learning._CLASSES)
def test_each_of_their_classes_keeps_its_codes(name: str, x: Tensor, tmp_path: Path) -> None:
    found = written_by(name, held_by(name), tmp_path).module()
    codes, rebuilt = theirs(name, held_by(name), x)
    assert_near(found.encode(x), codes)
    assert_near(found(x), rebuilt)


def test_what_was_trained_with_a_batch_level_k_says_so(tmp_path: Path) -> None:
    batch = written_by("BatchTopKSAE", held_by("BatchTopKSAE"), tmp_path).config
    nested = written_by("MatryoshkaBatchTopKSAE", held_by("MatryoshkaBatchTopKSAE"), tmp_path).config
    assert (batch.arch, batch.k) == ("batchtopk", K)
    assert (nested.arch, nested.k, nested.prefixes) == ("matryoshka", K, (8, 24))


def test_a_threshold_that_was_never_set_is_zero(x: Tensor, tmp_path: Path) -> None:
    tensors = held_by("BatchTopKSAE") | {"threshold": torch.tensor(-1.0)}
    found = written_by("BatchTopKSAE", tensors, tmp_path).module()
    assert_near(found.encode(x), theirs("BatchTopKSAE", tensors, x)[0])


def test_transcoders_are_refused(transcoder: Make) -> None:
    with pytest.raises(InputError, match="dictionary_learning has no transcoders: its classes rebuild their input"):
        dictionary_learning.written(transcoder("l1"))


@pytest.mark.parametrize(
    ("name", "tensors", "sentence"),
    [
        ("IdentityDict", {}, "dict_class is 'IdentityDict', for which saemill has no architecture"),
        ("AutoEncoderNew", {}, "lacks encoder.weight"),
        ("BatchTopKSAE", {"k": torch.tensor([1, 2])}, "has no single number k"),
        ("AutoEncoderTopK", {"k": torch.tensor(25)}, "k is 25 but must lie in 1..24"),
        ("AutoEncoderTopK", {"encoder.bias": normal(3, seed=0)}, r"encoder.bias of shape \[3\], which does not fit"),
        ("AutoEncoderTopK", {"b_dec": torch.zeros(D_IN, dtype=torch.int)}, "b_dec of dtype torch.int32"),
        ("AutoEncoderTopK", {"b_dec": torch.full((D_IN,), torch.nan)}, "b_dec with numbers that are not finite"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(
    name: str, tensors: dict[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    held = held_by(name) | tensors if tensors else {}
    with pytest.raises(InputError, match=sentence):
        written_by(name, held, tmp_path)


@pytest.mark.parametrize("content", [b"not a zip", b"", b"\x80\x04."])
def test_a_damaged_file_is_refused_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    written_by("AutoEncoderNew", held_by("AutoEncoderNew"), tmp_path)
    (tmp_path / "ae.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"ae\.pt is not a zip archive"):
        dictionary_learning.read(open_store(str(tmp_path)))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    written_by("AutoEncoderNew", held_by("AutoEncoderNew"), tmp_path)
    torch.save({"encoder.weight": _Trap(str(tmp_path / "sprung"))}, tmp_path / "ae.pt")
    with pytest.raises(InputError, match="cannot be read as tensors alone"):
        dictionary_learning.read(open_store(str(tmp_path)))
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")
