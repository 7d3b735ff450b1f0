import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.storage.objects import open_store
from tests.storage.contract import StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> object:
        return open_store(str(tmp_path))


def test_a_kill_before_the_rename_leaves_nothing_that_is_listed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123").write_bytes(b"half")
    assert list(open_store(str(tmp_path)).list()) == []


def test_what_is_removed_while_it_is_listed_is_passed_over(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for key in ("a/0", "b/0", "c/0"):
        store.put(key, b"")
    listed = store.list()
    assert next(listed).key == "a/0"
    store.delete_folder("b")
    assert [info.key for info in listed] == ["c/0"]


def test_folders_come_and_go_while_others_are_listed(tmp_path: Path) -> None:
    store, stays = open_store(str(tmp_path)), "stays/0"
    store.put(stays, b"")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            store.put("goes/deeper/0", b"")
            shutil.rmtree(tmp_path / "goes")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(come_and_go)
        try:
            for _ in range(2000):
                assert stays in [info.key for info in store.list()]
        finally:
            over.set()
        other.result()


def test_what_a_kill_left_is_told_apart_from_files_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (".tmp-0123", f"a/.tmp-{'0' * 32}", "a/b"):
        (tmp_path / name).write_bytes(b"half")
    assert [info.key for info in open_store(str(tmp_path)).leftovers()] == [f"a/.tmp-{'0' * 32}"]


def test_a_folder_goes_with_what_a_kill_left_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / f"a/.tmp-{'0' * 32}").write_bytes(b"half")
    open_store(str(tmp_path)).delete_folder("a")
    assert list(tmp_path.iterdir()) == []


def test_results_may_be_written_to_a_folder_that_is_not_there_yet_but_not_below_a_file(tmp_path: Path) -> None:
    open_store(f"{tmp_path}/new/runs").require_writable("runs")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"storage is 'runs' but .*/file is not a folder"):
        open_store(f"{tmp_path}/file/runs").require_writable("runs")


@pytest.mark.parametrize("uri", ["runs", "/runs", "file:///runs", "~/runs"])
def test_what_has_no_scheme_of_its_own_is_a_file_of_this_machine(uri: str) -> None:
    assert open_store(uri).path("a/b") == Path(open_store(uri).uri, "a/b")
