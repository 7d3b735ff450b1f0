"""A manifest that cannot be: refused by everything that follows it, and nothing outside the directory is touched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.config import parse_config
from tasks.activations.reader import Split
from tasks.encode.encode import encode_activations
from tasks.errors import ArtifactError, InputError, SaemillError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.export import export_activations
from tasks.harvest.gc import gc
from tasks.harvest.repair import take_out
from tasks.harvest.sources import open_source
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.sae import SAEConfig, SparseAutoencoder, save
from tasks.sae.scaling import Weights
from tasks.storage.artifacts import parse_json, read_manifest
from tests.composed import ingest

Change = Callable[[dict[str, Any]], None]
ROWS = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A finished activations directory, and beside it a file that looks like a shard's rows."""
    np.save(tmp_path / "rows.npy", ROWS)
    settings = {"activations": {"source": str(tmp_path / "rows.npy")}, "harvest": {"shard_tokens": 100}}
    home = tmp_path / f"activations/a-{'d' * 12}"
    ingest(parse_config({"storage": str(tmp_path), **settings}), str(home), silent)
    (home.parent / "train").mkdir()
    outside(home).write_bytes(b"precious")
    return home


def outside(home: Path) -> Path:
    return home.parent / "train/00000-0123456789ab.parquet"


def hook(manifest: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = manifest["hooks"]["source"]
    return entry


def shard(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = hook(manifest)["splits"]["train"]["shards"][0]
    return found


CHANGES: dict[str, Change] = {
    "no hooks": lambda m: m.update(hooks={}),
    "hooks in a list": lambda m: m.update(hooks=[1]),
    "a negative width": lambda m: hook(m).update(d_in=-8),
    "a width that is true": lambda m: hook(m).update(d_in=True),
    "an unknown dtype": lambda m: hook(m).update(dtype="float4"),
    "no statistics": lambda m: hook(m).update(statistics=None),
    "a mean of other width": lambda m: hook(m)["statistics"]["train"].update(mean=[0.0]),
    "a variance of text": lambda m: hook(m)["statistics"]["train"].update(variance="large"),
    "a variance below 0": lambda m: hook(m)["statistics"]["train"].update(variance=-1.0),
    "no variance": lambda m: hook(m)["statistics"]["eval"].pop("variance"),
    "a median norm in a list": lambda m: hook(m)["statistics"]["eval"].update(median_norm=[1.0]),
    "no statistics of training rows": lambda m: hook(m)["statistics"].update(train=None),
    "no statistics of eval rows": lambda m: hook(m)["statistics"].pop("eval"),
    "no splits": lambda m: hook(m).update(splits={}),
    "rows that do not add up": lambda m: hook(m)["splits"]["train"].update(rows=1),
    "row groups of text": lambda m: shard(m).update(row_groups=["x"]),
    "a negative size": lambda m: shard(m).update(size=-1),
    "a key above": lambda m: shard(m).update(key="../train/00000-0123456789ab.parquet"),
    "a key from the root": lambda m: shard(m).update(key="/etc/passwd"),
    "a key far above": lambda m: shard(m).update(key="source/../../../../etc/passwd"),
    "a key with a NUL": lambda m: shard(m).update(key="source/\0"),
    "a key that is a number": lambda m: shard(m).update(key=3),
    "shards elsewhere": lambda m: m.update(shards="/etc"),
    "shards above": lambda m: m.update(shards=".."),
    "shards that are no pool": lambda m: m.update(shards="../../shards/.."),
}

WRONG: dict[str, Change] = {
    "a hash in a list": lambda m: shard(m).update(sha256=["0" * 64]),
    "a hash that is a number": lambda m: shard(m).update(sha256=3),
    "a hash that is null": lambda m: shard(m).update(sha256=None),
    "a hash of other length": lambda m: shard(m).update(sha256="abc"),
}
"""What only those look at that compare bytes."""


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_hash_that_is_none_is_a_finding_of_verify(change: Change, home: Path) -> None:
    manifest = json.loads((home / "manifest.json").read_text())
    change(manifest)
    (home / "manifest.json").write_text(json.dumps(manifest))
    [finding] = verify(str(home), silent).findings
    assert (finding.kind, finding.key) == ("damaged", "manifest.json")
    assert "which is none" in finding.reason


@pytest.mark.parametrize(
    "name, value", [("sha256", [1]), ("sha256", None), ("row_groups", [1.5]), ("rows", "64"), ("size", [])]
)
def test_a_commit_record_of_other_kinds_of_values_is_a_finding_of_verify(name: str, value: Any, home: Path) -> None:
    path = sorted((home / "commits").iterdir())[0]
    record = json.loads(path.read_text())
    record["objects"]["source"][name] = value
    path.write_text(json.dumps(record))
    [finding] = verify(str(home), silent).findings
    assert (finding.kind, finding.key) == ("damaged", f"commits/{path.name}")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_cannot_be_is_refused_by_all_that_follow_it(change: Change, home: Path, tmp_path: Path) -> None:
    manifest = json.loads((home / "manifest.json").read_text())
    change(manifest)
    (home / "manifest.json").write_text(json.dumps(manifest))
    uri, sae = str(home), str(tmp_path / "sae")
    store_sae(sae)
    for follow in (
        lambda: Split(uri, "source", "train"),
        lambda: export_activations(uri, str(tmp_path / "out"), "list", silent),
        lambda: encode_activations(sae, uri, str(tmp_path / "codes"), silent),
        lambda: open_source(ActivationsConfig(source=uri)),
    ):
        with pytest.raises(SaemillError) as refused:
            follow()
        assert "\n" not in str(refused.value)
    findings = verify(uri, silent).findings
    assert [finding.key for finding in findings if finding.kind == "damaged"] == ["manifest.json"]
    with pytest.raises(ArtifactError, match="nothing was removed"):
        gc(uri)
    take_out(uri, silent)
    assert outside(home).read_bytes() == b"precious"
    assert not (home / "manifest.json").exists()


def store_sae(uri: str) -> None:
    weights = Weights(torch.ones(6, 8), torch.zeros(8), torch.ones(8, 6), torch.zeros(6))
    save(SparseAutoencoder(SAEConfig(arch="topk", d_in=6, d_sae=8, k=2), weights), uri, {"hook": "source"})


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "[" * 100_000, "{", "", "\xff\xfe", "1" * 5_000])
def test_what_is_no_json_object_is_refused(text: str, home: Path) -> None:
    (home / "manifest.json").write_text(text, encoding="latin1")
    with pytest.raises(ArtifactError, match=r"manifest\.json (is|holds)") as refused:
        read_manifest(str(home))
    assert "\n" not in str(refused.value)
    assert [finding.key for finding in verify(str(home), silent).findings] == ["manifest.json"]


def test_a_width_that_the_rows_do_not_have_is_found(home: Path) -> None:
    manifest = json.loads((home / "manifest.json").read_text())
    hook(manifest).update(d_in=5)
    for statistics in hook(manifest)["statistics"].values():
        statistics.update(mean=[0.0] * 5)
    (home / "manifest.json").write_text(json.dumps(manifest))
    [finding] = verify(str(home), silent).findings
    assert (finding.kind, finding.key) == ("damaged", "manifest.json")
    assert "rows of 6 x float32" in finding.reason


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither manifest\.json nor commits/"):
        verify(str(tmp_path), silent)


def test_numbers_of_any_length_are_refused_rather_than_read() -> None:
    with pytest.raises(ValueError, match="is not valid JSON"):
        parse_json("1" * 10_000)
