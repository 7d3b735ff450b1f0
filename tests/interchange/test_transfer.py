from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from flows.cli import main
from tasks.errors import ArtifactError, InputError
from tasks.interchange.formats import NAMES, FormatName, open_format
from tasks.interchange.portable import Portable
from tasks.interchange.transfer import export_sae, import_sae, open_portable
from tasks.sae import load, save
from tasks.storage.objects import open_store
from tests.interchange.conftest import Make, assert_near, assert_same_sae

HELD: list[tuple[FormatName, str]] = [
    ("saelens", "gated"),
    ("sparsify", "topk"),
    ("dictionary_learning", "jumprelu"),
    ("circuit-tracer", "batchtopk"),
]


def stored(sae: Portable, uri: str, **more: Any) -> str:
    """As saemill train stores it."""
    belongs = sae.belongs
    facts = {"model": belongs.model, "revision": belongs.revision, "training": {"steps": 9, "lr": 1e-3}}
    save(sae.module(), uri, {**facts, "hook": belongs.hook, "target_hook": belongs.target_hook, **more})
    return uri


@pytest.fixture
def kept(made: Make, transcoder: Make, tmp_path: Path) -> Any:
    """The URI of a stored SAE that a format can hold."""

    def keep(name: FormatName, arch: str) -> str:
        sae = transcoder(arch) if name == "circuit-tracer" else made(arch)
        return stored(sae, str(tmp_path / f"{arch}-for-{name}"))

    return keep


@pytest.mark.parametrize(("name", "arch"), HELD)
def test_an_sae_that_left_and_came_back_gives_equal_codes(
    name: FormatName, arch: str, kept: Any, x: Tensor, tmp_path: Path
) -> None:
    uri = kept(name, arch)
    export_sae(uri, name, f"{tmp_path}/theirs")
    found = import_sae(f"{tmp_path}/theirs", name, f"{tmp_path}/back")
    assert (found.d_in, found.d_sae, found.earlier) == (6, 24, False)
    assert_same_sae(open_portable(found.uri), open_portable(uri), x)
    assert_near(load(found.uri).encode(x), load(uri).encode(x))


@pytest.mark.parametrize(("name", "arch"), HELD)
def test_both_ways_go_through_a_bucket(name: FormatName, arch: str, kept: Any, x: Tensor, s3: str) -> None:
    uri, root = kept(name, arch), f"{s3}/interchange-{name}"
    export_sae(uri, name, f"{root}/theirs")
    import_sae(f"{root}/theirs", name, f"{root}/back")
    assert_near(load(f"{root}/back").encode(x), load(uri).encode(x))


def test_an_export_given_again_changes_nothing(kept: Any, tmp_path: Path) -> None:
    uri = kept("saelens", "topk")
    first = export_sae(uri, "saelens", f"{tmp_path}/theirs")
    again = export_sae(uri, "saelens", f"{tmp_path}/theirs")
    assert (first.earlier, again.earlier, again.files) == (False, True, ("sae_weights.safetensors", "cfg.json"))


def test_an_export_that_was_stopped_between_its_files_goes_on(kept: Any, tmp_path: Path) -> None:
    uri = kept("saelens", "topk")
    found = export_sae(uri, "saelens", f"{tmp_path}/theirs")
    (tmp_path / "theirs" / "cfg.json").unlink()
    assert not export_sae(uri, "saelens", f"{tmp_path}/theirs").earlier
    assert {info.key for info in open_store(found.uri).list()} == set(found.files)


def test_an_export_changes_no_file_of_another(kept: Any, tmp_path: Path) -> None:
    export_sae(kept("saelens", "topk"), "saelens", f"{tmp_path}/theirs")
    before = (tmp_path / "theirs/cfg.json").read_bytes()
    with pytest.raises(InputError, match=r"cfg.json is there already with another content"):
        export_sae(kept("sparsify", "topk"), "sparsify", f"{tmp_path}/theirs")
    assert (tmp_path / "theirs/cfg.json").read_bytes() == before
    assert not (tmp_path / "theirs/sae.safetensors").exists()


def test_layers_of_one_set_of_transcoders_are_exported_to_one_folder(transcoder: Make, tmp_path: Path) -> None:
    for layer in (0, 1):
        hooks = {"hooks": (f"model.layers.{layer}.mlp:input",), "target_hook": f"model.layers.{layer}.mlp"}
        export_sae(stored(transcoder("l1", **hooks), f"{tmp_path}/{layer}"), "circuit-tracer", f"{tmp_path}/set")
    names = {path.name for path in (tmp_path / "set").iterdir()}
    assert names == {"layer_0.safetensors", "layer_1.safetensors", "config.yaml"}


def test_an_imported_sae_says_where_it_came_from(kept: Any, tmp_path: Path) -> None:
    export_sae(kept("saelens", "topk"), "saelens", f"{tmp_path}/theirs")
    found = import_sae(f"{tmp_path}/theirs", "saelens", f"{tmp_path}/back")
    belongs = open_portable(found.uri).belongs
    assert (belongs.model, belongs.revision, belongs.hook) == ("some/model", "abc", "model.layers.3")
    provenance = (tmp_path / "back/import.json").read_text()
    assert '"format": "saelens"' in provenance
    assert '"source": "theirs"' in provenance


def test_an_import_that_was_stopped_goes_on_and_given_again_changes_nothing(kept: Any, tmp_path: Path) -> None:
    export_sae(kept("saelens", "topk"), "saelens", f"{tmp_path}/theirs")

    def again() -> bool:
        return import_sae(f"{tmp_path}/theirs", "saelens", f"{tmp_path}/back").earlier

    assert [again(), again()] == [False, True]
    (tmp_path / "back/config.json").unlink()
    assert [again(), again()] == [False, True]


def test_an_import_is_not_written_over_anything_else(kept: Any, tmp_path: Path) -> None:
    export_sae(kept("saelens", "topk"), "saelens", f"{tmp_path}/theirs")
    export_sae(kept("saelens", "gated"), "saelens", f"{tmp_path}/others")
    import_sae(f"{tmp_path}/theirs", "saelens", f"{tmp_path}/back")
    with pytest.raises(InputError, match="holds another import"):
        import_sae(f"{tmp_path}/others", "saelens", f"{tmp_path}/back")
    with pytest.raises(InputError, match="holds other things"):
        import_sae(f"{tmp_path}/others", "saelens", f"{tmp_path}/theirs")


@pytest.mark.parametrize("name", NAMES)
def test_a_crosscoder_is_refused_by_every_format(name: FormatName, made: Make, tmp_path: Path) -> None:
    uri = stored(made("topk"), f"{tmp_path}/sae", hooks=["model.layers.3", "model.layers.4"])
    with pytest.raises(InputError, match=f"a crosscoder of 2 hooks, and {name} has no place for one"):
        export_sae(uri, name, f"{tmp_path}/theirs")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_something_else_is_refused(name: FormatName, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds no .*; there are photo.jpg"):
        open_format(name).read(open_store(str(tmp_path)))
    with pytest.raises(InputError, match=r"holds no .*; the folder is empty or not there"):
        open_format(name).read(open_store(f"{tmp_path}/nowhere"))


def test_a_damaged_sae_is_told_from_none(kept: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no SAE at"):
        export_sae(f"{tmp_path}/nowhere", "saelens", f"{tmp_path}/theirs")
    uri = kept("saelens", "topk")
    (Path(uri) / "sae.safetensors").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=r"sae.safetensors is damaged"):
        export_sae(uri, "saelens", f"{tmp_path}/theirs")


def said(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_commands_print_where_the_sae_is(kept: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    there = ["--format", "saelens", "--out", f"{tmp_path}/theirs"]
    code, out, err = said(["export", kept("saelens", "topk"), *there], capfd)
    line = f"{tmp_path}/theirs: sae_weights.safetensors, cfg.json; topk, d_in 6, d_sae 24\n"
    assert (code, out, err) == (0, line, "")
    back = ["import", f"{tmp_path}/theirs", "--format", "saelens", "--out", f"{tmp_path}/back", "--json"]
    code, out, err = said(back, capfd)
    assert (code, err) == (0, "")
    assert f'"uri": "{tmp_path}/back"' in out


def test_what_a_format_cannot_hold_ends_the_command_in_a_sentence(
    kept: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", kept("saelens", "gated"), "--format", "sparsify", "--out", f"{tmp_path}/theirs"]
    code, out, err = said(arguments, capfd)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("saemill: sparsify holds only SAEs that keep the k largest latents of each row, not gated")


def test_an_unknown_format_ends_the_command_in_a_sentence(kept: Any, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(["export", "sae", "--format", "onnx", "--out", "x"], capfd)
    assert code == 2
    assert "'onnx' is not one of 'saelens', 'sparsify', 'dictionary_learning', 'circuit-tracer'" in err
