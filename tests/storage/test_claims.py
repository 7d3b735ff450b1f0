import os
import time
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.storage.artifacts import read_json
from tasks.storage.base import ObjectStore
from tasks.storage.claims import claim, sweep
from tasks.storage.objects import open_store

REQUEST = {"what": "rows", "of": "a"}


def claimed(store: ObjectStore, request: dict[str, str] = REQUEST) -> dict[str, int]:
    return claim(store, "request.json", request, ["one", "two"], "export")


def test_an_empty_folder_is_claimed_by_saying_what_is_made_there(tmp_path: Path) -> None:
    store = open_store(f"{tmp_path}/new")
    assert claimed(store) == {}
    assert read_json(store.uri, "request.json") == REQUEST


def test_the_same_claim_again_finds_what_is_there(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    claimed(store)
    store.put("one", b"123")
    assert claimed(store)["one"] == 3


def test_another_claim_is_refused_with_what_differs(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    claimed(store)
    with pytest.raises(InputError, match=r"holds another export \(of a, now b\); name another folder"):
        claimed(store, {**REQUEST, "of": "b"})


@pytest.mark.parametrize("names", [("photo.jpg",), ("request.json", "photo.jpg")])
def test_a_folder_with_other_things_is_refused_and_left_alone(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"holds other things \(photo\.jpg\)"):
        claimed(open_store(str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file, which is a file; name a folder"):
        claimed(open_store(f"{tmp_path}/file"))


def test_what_a_killed_process_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (f".tmp-{'0' * 32}", f".tmp-{'1' * 32}", ".tmp-of-mine"))
    for path in (old, young, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 3600,) * 2)
    sweep(open_store(str(tmp_path)))
    assert [path.exists() for path in (old, young, other)] == [False, True, True]
