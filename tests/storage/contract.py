"""What every storage backend keeps: a class of tests that each backend's own class inherits and gives its store to."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSelector, FileType, LocalFileSystem

from tasks.storage.arrow import arrow_filesystem
from tasks.storage.base import ObjectInfo, ObjectStore
from tasks.storage.hashed import content_identity
from tasks.storage.listing import exists, find
from tasks.storage.objects import object_at, open_store


class StoreContract:
    """A subclass has a fixture ``store``, which gives an empty store."""

    def test_what_is_put_is_got_back_whole_and_in_ranges(self, store: ObjectStore) -> None:
        store.put("a/b", b"0123456789")
        assert store.get("a/b") == b"0123456789"
        assert store.get("a/b", 3, 4) == b"3456"
        assert store.get("a/b", 7) == b"789"

    def test_put_replaces(self, store: ObjectStore) -> None:
        store.put("a", b"old")
        store.put("a", b"new")
        assert store.get("a") == b"new"

    def test_an_object_may_be_empty(self, store: ObjectStore) -> None:
        store.put("a", b"")
        assert store.get("a") == b""
        assert store.head("a") == ObjectInfo("a", 0)

    def test_put_if_absent_keeps_the_first(self, store: ObjectStore) -> None:
        assert store.put_if_absent("a", b"first")
        assert not store.put_if_absent("a", b"second")
        assert store.get("a") == b"first"

    def test_put_if_absent_of_the_same_bytes_counts_as_done(self, store: ObjectStore) -> None:
        assert store.put_if_absent("a", b"same")
        assert store.put_if_absent("a", b"same")

    def test_of_sixteen_racers_exactly_one_wins(self, store: ObjectStore) -> None:
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda n: store.put_if_absent("race", b"%d" % n), range(16)))
        assert won.count(True) == 1
        assert store.get("race") == b"%d" % won.index(True)

    def test_list_gives_keys_under_a_prefix_in_order(self, store: ObjectStore) -> None:
        for key in ("x/2", "x/1", "xy", "z"):
            store.put(key, b"ab")
        assert list(store.list("x/")) == [ObjectInfo("x/1", 2), ObjectInfo("x/2", 2)]
        assert [info.key for info in store.list("x")] == ["x/1", "x/2", "xy"]
        assert list(store.list("nothing/")) == []

    def test_head_and_delete(self, store: ObjectStore) -> None:
        assert store.head("a") is None
        store.put("a", b"abc")
        assert store.head("a") == ObjectInfo("a", 3)
        store.delete("a")
        store.delete("a")
        assert store.head("a") is None

    def test_an_object_says_when_it_was_written(self, store: ObjectStore) -> None:
        store.put("a", b"abc")
        head = store.head("a")
        assert head is not None
        (listed,) = store.list("a")
        assert abs(listed.modified - head.modified) < 1  # HEAD gives whole seconds on S3
        assert abs(time.time() - head.modified) < 60

    def test_a_folder_is_no_object_even_when_its_last_one_is_gone(self, store: ObjectStore) -> None:
        store.put("folder/a", b"abc")
        assert store.head("folder") is None
        store.delete("folder/a")
        assert list(store.list("folder/")) == list(store.list()) == []
        assert store.head("folder") is None

    def test_getting_what_is_not_there_says_so(self, store: ObjectStore) -> None:
        for request in (store.get, store.identity, store.open, store.open_in_order):
            with pytest.raises(FileNotFoundError):
                request("nothing")

    def test_a_store_is_found_again_by_its_uri_also_in_another_process(self, store: ObjectStore) -> None:
        assert open_store(store.uri) == store
        assert pickle.loads(pickle.dumps(store)) == store

    def test_a_store_that_gives_up_sooner_holds_the_same(self, store: ObjectStore) -> None:
        store.put("a", b"abc")
        assert store.hasty() == store
        assert store.hasty().get("a") == b"abc"

    def test_a_root_may_be_an_object_itself(self, store: ObjectStore) -> None:
        store.put("a/rows.npy", b"0123")
        root = object_at(f"{store.uri}/a/rows.npy")
        assert root.get("") == b"0123"
        assert root.get("", 1, 2) == b"12"
        assert root.head("") == ObjectInfo("", 4)
        assert root.open("").read() == b"0123"
        assert list(root.list()) == []

    def test_a_place_is_there_once_something_lies_in_it(self, store: ObjectStore) -> None:
        assert not exists(f"{store.uri}/a")
        store.put("a/b", b"")
        assert exists(f"{store.uri}/a")
        assert exists(f"{store.uri}/a/b")
        assert exists(f"{store.uri}/a/")
        assert not exists(f"{store.uri}/b")

    def test_names_are_those_of_the_first_level(self, store: ObjectStore) -> None:
        assert set(store.names()) == set()
        for key in ("x/1", "x/y/2", "z"):
            store.put(key, b"")
        assert set(store.names()) == {"x", "z"}

    def test_an_identity_follows_the_content_and_not_the_name(self, store: ObjectStore) -> None:
        for key, data in {"a": b"one", "b/a": b"one", "c": b"two"}.items():
            store.put(key, data)
        assert store.identity("a") == store.identity("b/a") != store.identity("c")
        assert content_identity(f"{store.uri}/a", "text.source") == store.identity("a")
        store.put("a", b"another")
        assert store.identity("a") not in (store.identity("b/a"), store.identity("c"))

    def test_an_object_is_a_file_for_arrow(self, store: ObjectStore) -> None:
        table = pa.table({"n": list(range(10_000))})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=100)
        data = sink.getvalue().to_pybytes()
        store.put("a/n.parquet", data)
        for size in (None, len(data)):
            assert pq.ParquetFile(store.open("a/n.parquet", size)).read_row_group(7)["n"].to_pylist()[0] == 700
        with store.open_in_order("a/n.parquet") as file:
            assert file.read(4) == data[:4]
            assert file.read() == data[4:]

    def test_delete_folder_takes_all_that_lies_below_and_nothing_beside(self, store: ObjectStore) -> None:
        for key in ("a/1", "a/b/2", "ab", "c"):
            store.put(key, b"")
        store.delete_folder("a")
        store.delete_folder("a")
        assert [info.key for info in store.list()] == ["ab", "c"]

    def test_nothing_is_left_over_of_what_was_put(self, store: ObjectStore) -> None:
        store.put("a", b"abc")
        store.put_if_absent("b", b"abc")
        assert list(store.leftovers()) == []

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("", ["a.txt", "deep/b.txt", "deep/er/c.txt"]),
            ("/", ["a.txt", "deep/b.txt", "deep/er/c.txt"]),
            ("/deep", ["deep/b.txt", "deep/er/c.txt"]),
            ("/a.txt", ["a.txt"]),
            ("/other.bin", ["other.bin"]),
            ("/*.txt", ["a.txt"]),
            ("/*", ["a.txt", "other.bin"]),
            ("/**/*.txt", ["a.txt", "deep/b.txt", "deep/er/c.txt"]),
            ("/deep/**", ["deep/b.txt", "deep/er/c.txt"]),
            ("/d*/[a-c]*.txt", ["deep/b.txt"]),
            ("/deep/?r/*", ["deep/er/c.txt"]),
            ("/_hidden/*.txt", ["_hidden/d.txt"]),
            ("/_h*/*", ["_hidden/d.txt"]),
            ("/nothing", []),
            ("/a.txt/*", []),
        ],
    )
    def test_a_source_stands_for_the_same_files_on_every_storage(
        self, source: str, expected: list[str], store: ObjectStore
    ) -> None:
        for key in ("a.txt", "deep/b.txt", "deep/er/c.txt", "_hidden/d.txt", "deep/.e.txt", "other.bin"):
            store.put(key, b"text")
        assert [file.removeprefix(f"{store.uri}/") for file in find(f"{store.uri}{source}", (".txt",))] == expected

    def test_a_store_is_a_file_system_for_arrow(self, store: ObjectStore) -> None:
        root, found = arrow_filesystem(store)
        files = found or LocalFileSystem()
        assert files.get_file_info(f"{root}/run").type == FileType.NotFound
        files.create_dir(f"{root}/run/deep")
        for name, data in {"marker": b"", "deep/snapshot.json": b"{}"}.items():
            with files.open_output_stream(f"{root}/run/{name}") as file:
                file.write(data)
        assert store.get("run/marker") == b""
        assert store.get("run/deep/snapshot.json") == b"{}"
        with files.open_input_stream(f"{root}/run/deep/snapshot.json") as file:
            assert file.read() == b"{}"
        marker = files.get_file_info(f"{root}/run/marker")
        assert (marker.type, marker.size) == (FileType.File, 0)
        assert files.get_file_info(f"{root}/run").type == FileType.Directory
        for recursive, expected in {False: ["deep", "marker"], True: ["deep", "deep/snapshot.json", "marker"]}.items():
            below = files.get_file_info(FileSelector(f"{root}/run", recursive=recursive))
            assert sorted(info.path.removeprefix(f"{root}/run/") for info in below) == expected
        with pytest.raises(FileNotFoundError):
            files.get_file_info(FileSelector(f"{root}/nothing"))
        assert files.get_file_info(FileSelector(f"{root}/nothing", allow_not_found=True)) == []
        files.copy_file(f"{root}/run/deep/snapshot.json", f"{root}/run/copy.json")
        files.delete_file(f"{root}/run/marker")
        files.delete_dir(f"{root}/run/deep")
        assert [info.key for info in store.list()] == ["run/copy.json"]
        assert pickle.loads(pickle.dumps(files)) == files
