import json
import os
import time
from pathlib import Path

import pytest

from flows.cli import main
from tasks.errors import ArtifactError, InputError
from tasks.harvest.gc import gc
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tests.harvest.test_verify import Lake, data_keys, rewrite

ORPHAN = f"source/train/00000-{'0' * 12}.parquet"
LEFTOVER = f"source/train/.tmp-{'0' * 32}"


def age(store: ObjectStore, hours: float = 25) -> None:
    """Make everything that is there look old."""
    for path in Path(store.uri).rglob("*"):
        os.utime(path, times=(time.time() - hours * 3600,) * 2)


def removed(store: ObjectStore, dry_run: bool = False) -> list[str]:
    return [info.key for info in gc(store.uri, dry_run=dry_run).removed]


def test_an_old_orphan_and_a_half_written_file_go_and_nothing_else(lake: Lake) -> None:
    store = lake()
    before = [info.key for info in store.list()]
    store.put(ORPHAN, b"rows")
    store.put(LEFTOVER, b"half")
    store.put("source/train/mine.parquet", b"the user's own")
    age(store)
    assert removed(store) == [ORPHAN, LEFTOVER]
    assert [info.key for info in store.list()] == sorted([*before, "source/train/mine.parquet"])
    assert store.head(LEFTOVER) is None


def test_what_is_younger_than_a_day_stays(lake: Lake) -> None:
    store = lake()
    store.put(ORPHAN, b"rows")
    store.put(LEFTOVER, b"half")
    age(store, hours=23)
    assert removed(store) == []


def test_a_dry_run_removes_nothing(lake: Lake) -> None:
    store = lake()
    store.put(ORPHAN, b"rows")
    age(store)
    assert removed(store, dry_run=True) == [ORPHAN]
    assert store.head(ORPHAN) is not None


def test_in_an_unfinished_directory_what_commit_records_name_stays(lake: Lake) -> None:
    store = lake()
    orphan = data_keys(store)[1]
    store.delete("manifest.json")
    store.delete("commits/train-00001.json")
    age(store)
    assert removed(store) == [orphan]
    assert [finding.key for finding in verify(store.uri, silent).findings] == ["manifest.json"]


def test_what_only_the_manifest_names_stays(lake: Lake) -> None:
    store = lake()
    store.delete("commits/train-00001.json")
    age(store)
    assert removed(store) == []


@pytest.mark.parametrize("key", ["manifest.json", "commits/train-00001.json"])
def test_nothing_is_removed_where_a_record_is_damaged(lake: Lake, key: str) -> None:
    store = lake()
    store.put(ORPHAN, b"rows")
    store.put(key, b"{")
    age(store)
    with pytest.raises(ArtifactError, match=f"{key} is damaged"):
        gc(store.uri)
    assert store.head(ORPHAN) is not None


def test_nothing_is_removed_under_the_manifest_of_another_recipe(lake: Lake) -> None:
    store = lake()
    store.put(ORPHAN, b"rows")
    rewrite(store, "manifest.json", lambda manifest: manifest["recipe"].update(hash="e" * 12))
    age(store)
    with pytest.raises(ArtifactError, match="of recipe e"):
        gc(store.uri)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{'0' * 32}").write_bytes(b"not ours")
    with pytest.raises(InputError, match="an activations directory was expected"):
        gc(str(tmp_path))


@pytest.mark.s3
def test_on_s3_the_age_is_known_and_young_objects_stay(
    lake: Lake, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = lake(), open_store(f"{s3}/{tmp_path.name}/activations/x-{'d' * 12}")
    for info in here.list():
        there.put(info.key, here.get(info.key))
    there.put(ORPHAN, b"rows")
    assert removed(there) == []
    monkeypatch.setattr("tasks.harvest.gc.MIN_AGE_S", -60.0)  # S3 lets nobody change when an object was written
    assert removed(there) == [ORPHAN]
    assert there.head(ORPHAN) is None


def test_the_command_says_what_and_how_many_bytes(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    store = lake()
    store.put(ORPHAN, b"rows")
    age(store)
    for options, word in ((["--dry-run"], "would remove"), ([], "removed")):
        with pytest.raises(SystemExit) as stopped:
            main(["gc", store.uri, *options])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{word} {store.uri}/{ORPHAN} (4 bytes)",
            f"{word} 1 objects, 4 bytes",
        ]
    with pytest.raises(SystemExit):
        main(["gc", store.uri, "--json"])
    assert json.loads(capsys.readouterr().out) == {"uri": store.uri, "dry_run": False, "removed": [], "bytes": 0}
