import subprocess
import sys

import pytest
from pyarrow.fs import FileSelector

from tasks.errors import InputError
from tasks.storage.arrow import arrow_filesystem
from tasks.storage.memory import MemoryStore
from tasks.storage.objects import BACKENDS, open_store
from tests.conftest import ROOT


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="unknown scheme"):
        open_store("ftp://somewhere")


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_backend_is_known_by_the_scheme_of_its_uris(scheme: str) -> None:
    store = open_store(f"{scheme}://there/prefix/")
    assert type(store) is BACKENDS[scheme]
    assert store.uri == f"{scheme}://there/prefix"
    assert store.path("a") is None


def test_no_client_is_imported_before_a_server_is_asked() -> None:
    script = "import sys, tasks.storage.listing; print(*{'s3fs', 'botocore', 'aiohttp', 'pyarrow'} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


def test_a_store_whose_uri_goes_on_with_a_path_is_a_file_system_for_arrow_too() -> None:
    root, found = arrow_filesystem(MemoryStore("memory:///deep/room"))
    assert found is not None
    with found.open_output_stream(f"{root}/a/b") as file:
        file.write(b"abc")
    assert MemoryStore("memory:///deep/room").get("a/b") == b"abc"
    (info,) = found.get_file_info(FileSelector(f"{root}/a"))
    assert (info.path, info.size) == (f"{root}/a/b", 3)
