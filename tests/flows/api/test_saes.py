from pathlib import Path

import pytest
import torch

import saemill
from tasks.interchange.formats import NAMES, FormatName, format_of, open_format
from tasks.interchange.portable import Portable
from tasks.interchange.transfer import import_sae
from tasks.sae import checkpoint
from tasks.sae.belonging import Belonging
from tasks.storage.objects import open_store
from tests.interchange.conftest import Make
from tests.interchange.conftest import made as made
from tests.interchange.conftest import transcoder as transcoder
from tests.interchange.conftest import x as x


@pytest.fixture
def foreign(made: Make, transcoder: Make, tmp_path: Path) -> dict[FormatName, Path]:
    """A folder of each other library."""
    saes: dict[FormatName, Portable] = {name: made("topk") for name in NAMES} | {"circuit-tracer": transcoder("jumprelu")}
    for name, sae in saes.items():
        for key, data in open_format(name).files(sae).items():
            open_store(str(tmp_path / name)).put(key, data)
    return {name: tmp_path / name for name in saes}


@pytest.mark.parametrize("name", NAMES)
def test_an_sae_of_any_library_is_known_by_its_files(
    name: FormatName, foreign: dict[FormatName, Path], tmp_path: Path, x: torch.Tensor
) -> None:
    assert format_of(open_store(str(foreign[name]))) == name
    found = saemill.load(foreign[name])
    import_sae(str(foreign[name]), name, str(tmp_path / "imported"))
    assert torch.equal(found.encode(x), saemill.load(tmp_path / "imported").encode(x))
    assert found.belonging.imported_from == name
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_the_format_may_be_said(foreign: dict[FormatName, Path]) -> None:
    with pytest.raises(saemill.InputError, match=r"no cfg\.json, which SAELens writes"):
        saemill.load(foreign["dictionary_learning"], format="saelens")


def test_where_no_sae_is_this_is_said(tmp_path: Path) -> None:
    with pytest.raises(saemill.InputError, match="There is no SAE at"):
        saemill.load(tmp_path)


@pytest.mark.parametrize("arch", ["topk", "jumprelu"])
def test_what_is_saved_is_loaded_again(arch: str, made: Make, tmp_path: Path, x: torch.Tensor) -> None:
    sae = made(arch).module()
    saemill.save(sae, tmp_path / "sae")
    found = saemill.load(tmp_path / "sae")
    codes = found.encode(x)
    assert torch.equal(codes, sae.encode(x))
    assert torch.equal(found.decode(codes), sae.decode(codes))
    assert found.belonging == sae.belonging
    if arch == "topk":
        values, latents = found.encode_sparse(x)
        assert torch.equal(torch.zeros_like(codes).scatter(1, latents, values), codes)


def test_a_saved_sae_states_its_hooks(made: Make, tmp_path: Path) -> None:
    sae = made("topk", hooks=("a.1", "a.2")).module()
    saemill.save(sae, tmp_path)
    settings = checkpoint._settings(open_store(str(tmp_path)))
    assert settings["hook_roles"] == {"inputs": ["a.1", "a.2"], "outputs": ["a.1", "a.2"]}
    assert Belonging.of(settings).hooks == ("a.1", "a.2")
