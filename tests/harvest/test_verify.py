import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from tasks.errors import InputError
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store

Lake = Callable[[], ObjectStore]


def data_keys(store: ObjectStore, split: str = "train") -> list[str]:
    return [info.key for info in store.list(f"source/{split}/")]


def found(store: ObjectStore) -> list[tuple[str, str]]:
    return [(finding.kind, finding.key) for finding in verify(store.uri, silent).findings]


def flip(store: ObjectStore, key: str, at: int = 900) -> None:
    data = bytearray(store.get(key))
    data[at] ^= 1
    store.put(key, data)


def rewrite(store: ObjectStore, key: str, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(store.get(key))
    change(value)
    store.put(key, json.dumps(value).encode())


def test_an_undisturbed_directory_is_clean(lake: Lake) -> None:
    store = lake()
    result = verify(store.uri, silent)
    assert result.findings == []
    assert result.objects == len(data_keys(store)) + len(data_keys(store, "eval"))


@pytest.mark.s3
def test_on_s3_it_is_clean_or_not_just_as_well(lake: Lake, s3: str, tmp_path: Path) -> None:
    here, there = lake(), open_store(f"{s3}/{tmp_path.name}/activations/x-{'d' * 12}")
    for info in here.list():
        there.put(info.key, here.get(info.key))
    assert found(there) == []
    flip(there, data_keys(there)[1])
    there.delete(data_keys(there)[0])
    assert found(there) == [("missing", data_keys(here)[0]), ("damaged", data_keys(here)[1])]


def test_a_flipped_byte_is_found(lake: Lake) -> None:
    store = lake()
    key = data_keys(store)[1]
    flip(store, key)
    assert found(store) == [("damaged", key)]


def test_a_truncated_object_is_found(lake: Lake) -> None:
    store = lake()
    key = data_keys(store)[0]
    store.put(key, store.get(key)[:-100])
    assert found(store) == [("damaged", key)]


def test_swapped_shards_are_found_and_said_to_be_swapped(lake: Lake) -> None:
    store = lake()
    first, second = data_keys(store)[:2]
    one, two = store.get(first), store.get(second)
    store.put(first, two)
    store.put(second, one)
    findings = verify(store.uri, silent).findings
    assert [(f.key, f.reason) for f in findings] == [
        (first, f"it holds the bytes of {second}"),
        (second, f"it holds the bytes of {first}"),
    ]


def test_a_deleted_object_is_found(lake: Lake) -> None:
    store = lake()
    key = data_keys(store)[0]
    store.delete(key)
    assert found(store) == [("missing", key)]


def test_foreign_parquet_in_place_of_a_shard_or_beside_it_is_found(lake: Lake) -> None:
    store = lake()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": np.arange(9)}), sink)
    key = data_keys(store)[0]
    store.put(key, sink.getvalue())
    store.put("source/train/mine.parquet", sink.getvalue())
    assert found(store) == [("damaged", key), ("surplus", "source/train/mine.parquet")]


def test_the_manifest_of_another_recipe_is_found_and_the_commit_records_are_believed(lake: Lake) -> None:
    store = lake()
    rewrite(store, "manifest.json", lambda manifest: manifest["recipe"].update(hash="e" * 12))
    (finding,) = verify(store.uri, silent).findings
    assert (finding.kind, finding.key) == ("damaged", "manifest.json")
    assert f"of recipe {'e' * 12}, the directory is that of {'d' * 12}" in finding.reason


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"{}", b'{"stage": "activations", "recipe": {"hash": "%s"}, "hooks": {"a": 1}}']
)
def test_a_manifest_that_cannot_be_used_is_a_finding_and_no_crash(lake: Lake, data: bytes) -> None:
    store = lake()
    store.put("manifest.json", data.replace(b"%s", b"d" * 12))
    assert found(store) == [("damaged", "manifest.json")]


def test_an_unfinished_harvest_is_said_to_be_one(lake: Lake) -> None:
    store = lake()
    store.delete("manifest.json")
    assert found(store) == [("missing", "manifest.json")]


def test_commit_records_are_held_against_the_manifest(lake: Lake) -> None:
    store = lake()
    store.delete("commits/train-00000.json")
    store.put("commits/train-00001.json", b"\xff")
    rewrite(store, "commits/eval-00000.json", lambda record: record["objects"]["source"].update(rows=1))
    store.put("commits/train-00099.json", store.get("commits/train-00002.json"))
    assert sorted(found(store)) == [
        ("damaged", "commits/eval-00000.json"),
        ("damaged", "commits/train-00001.json"),
        ("missing", "commits/train-00000.json"),
        ("surplus", "commits/train-00099.json"),
    ]


def test_a_folder_that_holds_no_activations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither manifest.json nor commits/"):
        verify(str(tmp_path), silent)


def verified(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["verify", *arguments])
    return stopped.value.code, capsys.readouterr().out


def test_the_command_prints_a_line_per_finding_and_exits_1(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    store = lake()
    key = data_keys(store)[0]
    assert verified(capsys, store.uri)[0] == 0
    store.delete(key)
    code, out = verified(capsys, store.uri)
    assert code == 1
    assert out.splitlines() == [out.strip()]
    assert out.startswith(f"missing  {store.uri}/{key}: ")
    code, out = verified(capsys, store.uri, "--json")
    assert code == 1
    assert json.loads(out)["findings"][0]["key"] == key


def test_the_command_refuses_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(capsys, str(tmp_path))[0] == 2
