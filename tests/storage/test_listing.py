"""Which files a source stands for: one rule wherever files are named."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import InputError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.sources import open_source
from tasks.storage.artifacts import address
from tasks.storage.listing import find
from tasks.storage.objects import open_store
from tasks.text.files import find_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two files, copies that editors and half-done writes left, and a folder elsewhere to link to."""
    for name in (
        "data/a.txt",
        "data/deep/b.txt",
        "data/.ipynb_checkpoints/a-checkpoint.txt",
        "data/_temporary/0/a.txt",
        "data/._a.txt",
        "data/.git/objects/a.txt",
        "far/c.txt",
        "far/deeper/d.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(tree: Path, source: str) -> list[str]:
    return [str(Path(file).relative_to(tree)) for file in find(str(tree / source), (".txt",))]


@pytest.mark.parametrize(
    "source, expected",
    [
        ("data", ["data/a.txt", "data/deep/b.txt"]),
        ("data/*.txt", ["data/a.txt"]),
        ("data/**/*.txt", ["data/a.txt", "data/deep/b.txt"]),
        ("data/**", ["data/a.txt", "data/deep/b.txt"]),
        ("*/*/b.txt", ["data/deep/b.txt"]),
        ("d*/[a-d]*/*.txt", ["data/deep/b.txt"]),
        ("data/.ipynb_checkpoints", ["data/.ipynb_checkpoints/a-checkpoint.txt"]),
        ("data/.ipynb*/*.txt", ["data/.ipynb_checkpoints/a-checkpoint.txt"]),
        ("data/_temporary/*/*.txt", ["data/_temporary/0/a.txt"]),
        ("data/._a.txt", ["data/._a.txt"]),
        ("data/nothing", []),
        ("data/a.txt/*", []),
    ],
)
def test_hidden_names_are_passed_over_unless_they_are_spelt(tree: Path, source: str, expected: list[str]) -> None:
    assert names(tree, source) == expected


def test_what_is_passed_over_is_told_once(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tasks.storage.listing"):
        find(str(tree / "data"), (".txt",))
        find(str(tree / "data"), (".txt",))
    [message] = caplog.messages
    assert "passed over 4 hidden files or folders" in message


@pytest.mark.parametrize("source", ["data", "data/**/*.txt"])
def test_linked_folders_are_followed_once_and_never_in_a_circle(tree: Path, source: str) -> None:
    (tree / "data/more").symlink_to(tree / "far")
    (tree / "data/again").symlink_to(tree / "far")
    (tree / "data/deep/up").symlink_to(tree / "data")
    (tree / "data/itself").symlink_to("itself")
    (tree / "data/nowhere").symlink_to(tree / "gone")
    assert names(tree, source) == ["data/a.txt", "data/again/c.txt", "data/again/deeper/d.txt", "data/deep/b.txt"]


def test_the_rule_is_the_same_for_corpora_and_activations(tree: Path) -> None:
    table = pa.table({"activation": [[float(i), 1.0] for i in range(100)]})
    for name in ("a.parquet", ".ipynb_checkpoints/a-checkpoint.parquet"):
        pq.write_table(table, tree / "data" / name)
    assert open_source(ActivationsConfig(source=str(tree / "data"))).n_rows == 100
    assert open_source(ActivationsConfig(source=f"{tree}/**/*.parquet")).n_rows == 100
    assert [file.name for file in find_files(str(tree / "data"))] == ["a.parquet", "a.txt", "deep/b.txt"]


@pytest.mark.s3
def test_the_rule_is_the_same_in_a_bucket(tree: Path, s3: str) -> None:
    store = open_store(f"{s3}/listing/{tree.name}")
    for path in sorted((tree / "data").rglob("*.txt")):
        store.put(path.relative_to(tree).as_posix(), path.read_bytes())

    def found(source: str) -> list[str]:
        return [file.removeprefix(f"{store.uri}/") for file in find(f"{store.uri}/{source}", (".txt",))]

    assert found("data") == found("data/**/*.txt") == ["data/a.txt", "data/deep/b.txt"]
    assert found("data/.ipynb*/*.txt") == ["data/.ipynb_checkpoints/a-checkpoint.txt"]
    assert found("data/a.txt") == ["data/a.txt"]


@pytest.mark.s3
@pytest.mark.parametrize("source", ["more/*.txt", "more/*", "more/**"])
def test_folders_that_match_a_pattern_are_no_files_wherever_they_lie(tree: Path, s3: str, source: str) -> None:
    store = open_store(f"{s3}/folders/{tree.name}")
    for name in ("more/a.txt", "more/parts.txt/b.txt", "more/deep/c.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
        store.put(name, name.encode())
    there = [file.removeprefix(f"{store.uri}/") for file in find(f"{store.uri}/{source}", (".txt",))]
    assert there == names(tree, source)
    assert "more/parts.txt" not in there


def test_a_tilde_is_the_home_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert open_store("~/runs").uri == f"{tree}/runs"
    assert [file.uri for file in find_files("~/far")] == [f"{tree}/far/c.txt", f"{tree}/far/deeper/d.txt"]
    assert [file.uri for file in find_files("~/data/*.txt")] == [f"{tree}/data/a.txt"]
    assert address(open_store("~/runs").uri, "saes", "x", {}).startswith(f"{tree}/runs/saes/")
    with pytest.raises(InputError, match="no user 'nobody-of-this-name'"):
        open_store("~nobody-of-this-name/runs")


@pytest.mark.parametrize(
    "uri, message",
    [
        ("a\0b", "NUL"),
        ("a" * 256, "cannot be the path of a file"),
        ("/".join(["a" * 99] * 50), "cannot be the path of a file"),
        ("\ud800", "surrogate"),
        ("s3://", "names no bucket"),
        ("s3:///a", "names no bucket"),
        ("s3://b/" + "a" * 1024, "that S3 allows"),
    ],
    ids=range(7),
)
def test_what_cannot_be_a_path_is_refused_in_a_sentence(uri: str, message: str) -> None:
    def own(uri: str) -> None:
        open_source(ActivationsConfig(source="x").model_copy(update={"source": uri}))  # settings would refuse most of them

    for use in (open_store, lambda uri: find(uri, (".txt",)), own):
        with pytest.raises(InputError, match=message) as refused:
            use(uri)
        assert len(str(refused.value)) < 600


def test_the_root_of_all_files_is_refused() -> None:
    with pytest.raises(InputError, match="all files of this machine"):
        find("/", (".txt",))
