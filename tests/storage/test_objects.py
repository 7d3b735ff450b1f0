import subprocess
import sys

import pytest

from tasks.errors import InputError
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
