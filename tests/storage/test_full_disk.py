"""What a store says when nothing more fits; a limit on the size of files stands in for a full disk, and needs no root."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PUT = """
import resource, sys
from tasks.errors import InputError
from tasks.storage.objects import open_store
store = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for put in (store.put, store.put_if_absent):
    try:
        put("a/rows.parquet", bytes(2000))
    except InputError as error:
        print(error)
"""


def test_a_put_without_room_says_so_and_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/rows.parquet").write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", PUT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.stdout.splitlines()
        == [
            f"There is no room for 2,000 bytes at {tmp_path}/a/rows.parquet: File too large. "
            "What is stored is kept: make room there and give the same command again."
        ]
        * 2
    )
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["rows.parquet"]
    assert (tmp_path / "a/rows.parquet").read_bytes() == b"before"
