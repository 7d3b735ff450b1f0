"""The permuted copy: codes to the bit, groups kept, and a directory as any other, whatever kill comes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.errors import InputError
from tasks.identity.permute import claim_permuted, groups, kept, order_like, permute_on_save, permuted
from tasks.sae import SparseAutoencoder, load, save
from tasks.sae.architectures.names import NAMES
from tasks.storage.local import LocalStore
from tests.interchange.conftest import D_IN, D_SAE, Make, normal
from tests.interchange.conftest import made as made
from tests.sampled import sampled

PARTNERS = np.array([5, -1, 3, 0, -1, *range(7, 23), 1, -1, -1])
"""Of 24 latents; no two have one, and 2, 4, 6 and 23 of A have none."""


def placed(order: np.ndarray) -> list[int]:
    return [int(order[partner]) for partner in PARTNERS if partner >= 0]


def test_matched_latents_stand_where_their_partners_stood_and_others_in_the_gaps() -> None:
    order = order_like(PARTNERS, (D_SAE,))
    assert sorted(order.tolist()) == list(range(D_SAE))
    assert placed(order) == np.flatnonzero(PARTNERS >= 0).tolist()
    assert order[[2, 4, 6, 23]].tolist() == [1, 4, 22, 23]


def test_nested_prefixes_keep_their_members() -> None:
    ends = (1, 3, 12, D_SAE)
    order = order_like(PARTNERS, ends)
    assert sorted(order.tolist()) == list(range(D_SAE))
    for low, high in zip((0, *ends), ends, strict=False):
        assert sorted(order[low:high].tolist()) == list(range(low, high))
    inside = [
        b
        for b, a in enumerate(PARTNERS)
        if a >= 0 and np.searchsorted(ends, b, "right") == np.searchsorted(ends, a, "right")
    ]
    assert [int(order[PARTNERS[b]]) for b in inside] == inside
    assert inside


def test_partners_beyond_the_last_index_have_no_place() -> None:
    assert order_like(np.array([9, 0, -1]), (3,)).tolist() == [1, 0, 2]


@pytest.mark.parametrize(("arch", "skip"), sampled([(arch, skip) for arch in NAMES for skip in (False, True)], 0.5))
def test_codes_are_equal_to_the_bit_and_reconstructions_to_rounding(made: Make, arch: str, skip: bool) -> None:
    sae = made(arch, skip=skip).module()
    order = order_like(PARTNERS, groups(sae))
    found = kept(sae, permuted(sae, order), order, normal(300, D_IN, seed=9))
    assert (found.rows, found.codes_differing) == (300, 0)
    assert found.reconstruction_difference < 1e-5


def test_a_copy_that_differs_is_told(made: Make) -> None:
    sae = made("topk").module()
    order = order_like(PARTNERS, groups(sae))
    found = kept(sae, permuted(sae, np.roll(order, 1)), order, normal(50, D_IN, seed=9))
    assert found.codes_differing > 50
    assert found.reconstruction_difference < 1e-5  # it is the same SAE all the same


def stored(made: Make, folder: Path, arch: str = "gated") -> tuple[str, SparseAutoencoder]:
    sae = made(arch).module()
    save(sae, str(folder), {"hook": "model.layers.3", "model": "some/model", "note": "kept"})
    (folder / "run.json").write_text("{}")
    return str(folder), sae


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("arch", ["gated", "matryoshka"])
def test_the_directory_is_a_finished_sae_whose_manifest_holds(made: Make, tmp_path: Path, arch: str) -> None:
    uri, sae = stored(made, tmp_path / "b", arch)
    order = order_like(PARTNERS, groups(sae))
    found = permute_on_save(uri, uri, order, f"{tmp_path}/out")
    files = contents(tmp_path / "out")
    manifest, config = json.loads(files["manifest.json"]), json.loads(files["config.json"])
    assert {"sae.safetensors", "config.json", "run.json"} == manifest["objects"].keys()
    for key, entry in manifest["objects"].items():
        assert entry["sha256"] == hashlib.sha256(files[key]).hexdigest()
    assert (config["note"], config["hook"], config["arch"]) == ("kept", "model.layers.3", arch)
    again = load(found.uri)
    assert again.model == "some/model"
    expected = permuted(sae, order)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert found.sha256 == hashlib.sha256(files["sae.safetensors"]).hexdigest()


def test_what_a_trained_ones_manifest_says_is_kept(made: Make, tmp_path: Path) -> None:
    uri, sae = stored(made, tmp_path / "b")
    (tmp_path / "b/manifest.json").write_text(json.dumps({"stage": "saes", "recipe": {"x": 1}}))
    permute_on_save(uri, uri, order_like(PARTNERS, groups(sae)), f"{tmp_path}/out")
    assert json.loads((tmp_path / "out/manifest.json").read_bytes())["recipe"] == {"x": 1}


class Killed(BaseException):
    pass


def dying(name: str, left: list[int]) -> Callable[..., object]:
    real = getattr(LocalStore, name)

    def write(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*arguments)

    return write


@pytest.mark.parametrize("writes", range(6))
def test_a_kill_at_any_write_leaves_nothing_that_the_same_command_does_not_finish(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    uri, sae = stored(made, tmp_path / "b")
    order = order_like(PARTNERS, groups(sae))
    permute_on_save(uri, uri, order, f"{tmp_path}/whole")
    left = [writes]
    with monkeypatch.context() as patched:
        for name in ("put", "put_if_absent"):
            patched.setattr(LocalStore, name, dying(name, left))
        try:
            permute_on_save(uri, uri, order, f"{tmp_path}/out")
        except Killed:
            assert not (tmp_path / "out/manifest.json").exists()
    assert permute_on_save(uri, uri, order, f"{tmp_path}/out").order.tolist() == order.tolist()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_copy_keeps_its_own_order(made: Make, tmp_path: Path) -> None:
    uri, sae = stored(made, tmp_path / "b")
    order = order_like(PARTNERS, groups(sae))
    permute_on_save(uri, uri, order, f"{tmp_path}/out")
    before = contents(tmp_path / "out")
    assert permute_on_save(uri, uri, np.arange(D_SAE), f"{tmp_path}/out").order.tolist() == order.tolist()
    assert contents(tmp_path / "out") == before


def test_a_place_with_other_things_is_refused_before_any_work(made: Make, tmp_path: Path) -> None:
    uri, _ = stored(made, tmp_path / "b")
    with pytest.raises(InputError, match=r"--permute-out is .* which holds other things"):
        claim_permuted(uri, uri, uri)
