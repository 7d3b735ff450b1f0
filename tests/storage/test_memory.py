from pathlib import Path

import pytest

from flows.preflight import check_storage
from tasks.errors import InputError
from tasks.storage.artifacts import read_manifest, write_manifest
from tasks.storage.objects import open_store
from tests.storage.contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> object:
        return open_store(f"memory://tests/{tmp_path.name}")


def test_names_are_rooms_of_their_own() -> None:
    write_manifest("memory://one/x", {"n": 1})
    assert read_manifest("memory://one/x") == {"n": 1}
    assert read_manifest("memory://one-more/x") is None
    assert read_manifest("memory://one") is None


@pytest.mark.parametrize("uri", ["memory://", "memory:///a"])
def test_memory_without_a_name_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="has no name; expected was memory://name/prefix"):
        open_store(uri)


def test_a_run_is_not_stored_where_its_workers_do_not_find_it() -> None:
    with pytest.raises(InputError, match="storage is 'memory://runs', which lies in the memory of one process"):
        check_storage("memory://runs")
