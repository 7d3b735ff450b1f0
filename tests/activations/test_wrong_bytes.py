"""A server that answers with wrong bytes: what is read is right, or ends in a sentence that names the object."""

import random
from pathlib import Path

import numpy as np
import pytest

from flows.config import parse_config
from tasks.activations.reader import Split
from tasks.errors import SaemillError
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.objects import open_store
from tasks.storage.s3 import S3Store
from tests.composed import ingest


@pytest.mark.s3
def test_rows_from_a_server_that_answers_with_wrong_bytes_are_right_or_refused(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    uri = f"{s3}/wrong/{tmp_path.name}/a-{'d' * 12}"
    settings = {"activations": {"source": str(tmp_path / "rows.npy")}, "harvest": {"shard_tokens": 100}}
    ingest(parse_config({"storage": uri, **settings}), uri, silent)
    right, refused = read(uri), 0
    plain = S3Store.get
    for seed in range(25):
        rng = random.Random(seed)
        wrong = rng.randrange(6)
        calls = iter(range(10**6))

        def get(self: S3Store, key: str, start: int = 0, length: int | None = None) -> bytes:
            data = bytearray(plain(self, key, start, length))
            if next(calls) == wrong and data:  # noqa: B023
                if rng.random() < 0.5:  # noqa: B023
                    return bytes(data[: rng.randrange(len(data))])  # noqa: B023
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)  # noqa: B023
            return bytes(data)

        monkeypatch.setattr(S3Store, "get", get)
        try:
            assert read(uri) == right
        except SaemillError as error:
            assert uri in str(error)
            assert "\n" not in str(error)
            refused += 1
        monkeypatch.setattr(S3Store, "get", plain)
    assert refused
    assert verify(uri, silent).findings == []
    assert open_store(uri).head("manifest.json") is not None


def read(uri: str) -> list[object]:
    found: list[object] = []
    for split in ("train", "eval"):
        rows = Split(uri, "source", split)
        found += [rows.activations(unit).tolist() for unit in rows.units()]
    return found
