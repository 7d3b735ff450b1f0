import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.storage.objects import ObjectInfo, ObjectStore, open_store


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "disk":
        return open_store(str(tmp_path))
    bucket: str = request.getfixturevalue("s3")
    return open_store(f"{bucket}/{tmp_path.name}")


def test_what_is_put_is_got_back_whole_and_in_ranges(store: ObjectStore) -> None:
    store.put("a/b", b"0123456789")
    assert store.get("a/b") == b"0123456789"
    assert store.get("a/b", 3, 4) == b"3456"
    assert store.get("a/b", 7) == b"789"


def test_put_replaces(store: ObjectStore) -> None:
    store.put("a", b"old")
    store.put("a", b"new")
    assert store.get("a") == b"new"


def test_put_if_absent_keeps_the_first(store: ObjectStore) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_put_if_absent_of_the_same_bytes_counts_as_done(store: ObjectStore) -> None:
    assert store.put_if_absent("a", b"same")
    assert store.put_if_absent("a", b"same")


def test_of_sixteen_racers_exactly_one_wins(store: ObjectStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: store.put_if_absent("race", b"%d" % n), range(16)))
    assert won.count(True) == 1
    assert store.get("race") == b"%d" % won.index(True)


def test_list_gives_keys_under_a_prefix_in_order(store: ObjectStore) -> None:
    for key in ("x/2", "x/1", "xy", "z"):
        store.put(key, b"ab")
    assert list(store.list("x/")) == [ObjectInfo("x/1", 2), ObjectInfo("x/2", 2)]
    assert [info.key for info in store.list("x")] == ["x/1", "x/2", "xy"]
    assert list(store.list("nothing/")) == []


def test_head_and_delete(store: ObjectStore) -> None:
    assert store.head("a") is None
    store.put("a", b"abc")
    assert store.head("a") == ObjectInfo("a", 3)
    store.delete("a")
    store.delete("a")
    assert store.head("a") is None


def test_an_object_says_when_it_was_written(store: ObjectStore) -> None:
    store.put("a", b"abc")
    head = store.head("a")
    assert head is not None
    (listed,) = store.list("a")
    assert abs(listed.modified - head.modified) < 1  # HEAD gives whole seconds on S3
    assert abs(time.time() - head.modified) < 60


def test_a_folder_is_no_object_even_when_its_last_one_is_gone(store: ObjectStore) -> None:
    store.put("folder/a", b"abc")
    assert store.head("folder") is None
    store.delete("folder/a")
    assert list(store.list("folder/")) == list(store.list()) == []
    assert store.head("folder") is None


def test_getting_what_is_not_there_says_so(store: ObjectStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("nothing")


def test_a_kill_before_the_rename_leaves_nothing_that_is_listed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123").write_bytes(b"half")
    assert list(open_store(str(tmp_path)).list()) == []


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="unknown scheme"):
        open_store("ftp://somewhere")
