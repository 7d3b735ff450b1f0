"""sparsify's folder, against its formulas (eai-sparsify 1.3.3) written out here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.interchange import sparsify
from tasks.interchange.named import to_safetensors
from tasks.interchange.portable import Portable
from tasks.storage.objects import open_store
from tests.interchange.conftest import D_IN, D_SAE, K, Make, assert_near, assert_same_sae


def theirs(settings: dict[str, Any], t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions as ``SparseCoder`` gives them."""
    read = x if settings["transcode"] else x - t["b_dec"]
    pre = (read @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    values, latents = pre.topk(settings["k"])
    rebuilt = torch.einsum("nk,nkd->nd", values, t["W_dec"][latents]) + t["b_dec"]
    codes = torch.zeros_like(pre).scatter(1, latents, values)
    return codes, rebuilt + x @ t["W_skip"].T if settings["skip_connection"] else rebuilt


def read_back(sae: Portable, folder: Path, changed: dict[str, Any] | None = None, **tensors: Tensor) -> Portable:
    """Write a folder, change settings or tensors in it, and read it."""
    settings, held = sparsify.written(sae)
    (folder / sparsify.CONFIG).write_text(json.dumps(settings | (changed or {})))
    (folder / sparsify.WEIGHTS).write_bytes(to_safetensors(held | tensors))
    return sparsify.read(open_store(str(folder)))


def test_an_exported_sae_gives_the_same_codes_by_their_formula(made: Make, x: Tensor) -> None:
    sae = made("topk")
    codes, rebuilt = theirs(*sparsify.written(sae), x)
    assert_near(codes, sae.module().encode(x))
    assert_near(rebuilt, sae.module()(x))


def test_a_skip_transcoder_does_too(transcoder: Make, x: Tensor) -> None:
    sae = transcoder("topk", skip=True)
    settings, tensors = sparsify.written(sae)
    assert settings["transcode"]
    codes, rebuilt = theirs(settings, tensors, x)
    assert_near(codes, sae.module().encode(x))
    assert_near(rebuilt, sae.module()(x))


def test_files_have_the_names_and_shapes_that_their_class_loads(made: Make) -> None:
    settings, tensors = sparsify.written(made("topk"))
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    weights = {"encoder.weight": [D_SAE, D_IN], "encoder.bias": [D_SAE], "W_dec": [D_SAE, D_IN], "b_dec": [D_IN]}
    assert shapes == weights
    assert list(sparsify.files(made("topk"))) == ["sae.safetensors", "cfg.json"]
    assert (settings["d_in"], settings["num_latents"], settings["k"]) == (D_IN, D_SAE, K)


def test_decoder_rows_count_as_normalised_only_if_they_are(made: Make) -> None:
    sae = made("topk")
    assert not sparsify.written(sae)[0]["normalize_decoder"]
    sae.weights.W_dec.div_(sae.weights.W_dec.norm(dim=1, keepdim=True))
    assert sparsify.written(sae)[0]["normalize_decoder"]


def test_an_sae_that_went_there_and_back_is_the_same(made: Make, x: Tensor, tmp_path: Path) -> None:
    assert_same_sae(read_back(made("topk"), tmp_path), made("topk"), x)


def test_a_transcoder_that_went_there_and_back_is_the_same(transcoder: Make, x: Tensor, tmp_path: Path) -> None:
    assert_same_sae(read_back(transcoder("topk", skip=True), tmp_path), transcoder("topk", skip=True), x)


@pytest.mark.parametrize("arch", ["l1", "batchtopk", "jumprelu", "gated", "dense"])
def test_architectures_that_do_not_keep_k_are_refused(arch: str, made: Make) -> None:
    with pytest.raises(InputError, match=f"keep the k largest latents of each row, not {arch}"):
        sparsify.written(made(arch))


def test_a_transcoder_to_another_width_is_refused(transcoder: Make) -> None:
    with pytest.raises(InputError, match="cannot hold a transcoder from 6 to 5 features"):
        sparsify.written(transcoder("topk", d_out=5))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax'"),
        ({"k": None}, "k is missing"),
        ({"k": 25}, "k is 25 but must lie in 1..24"),
        ({"skip_connection": True}, "lacks W_skip"),
        ({"transcode": 1}, "transcode is 1"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(
    changed: dict[str, Any], sentence: str, made: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_back(made("topk"), tmp_path, changed)


def test_a_folder_of_many_hookpoints_is_refused_with_their_names(made: Make, tmp_path: Path) -> None:
    (tmp_path / "layers.3").mkdir()
    read_back(made("topk"), tmp_path / "layers.3")
    with pytest.raises(InputError, match=r"holds no cfg\.json, which sparsify writes; there are layers\.3"):
        sparsify.read(open_store(str(tmp_path)))
