import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.addresses import addresses
from flows.config import load_config
from flows.planning import bytes_left
from flows.preflight import check
from tasks.activations import disk_space
from tasks.activations.disk_space import bytes_needed, free_bytes, require_room
from tasks.activations.schema import RowFormat, storage_dtype
from tasks.activations.writer import Rows, encode_shard
from tasks.errors import InputError
from tasks.storage.objects import open_store

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_estimate_is_what_the_rows_come_to_in_parquet(dtype: str) -> None:
    n, d_in = 4096, 64
    numbers = np.arange(n, dtype=np.int32)
    rows = Rows(np.zeros((n, d_in), storage_dtype(dtype)), numbers, numbers.astype(np.int64), numbers)
    encoded = encode_shard(rows, RowFormat(d_in, dtype, "", "", "", ""), n)  # type: ignore[arg-type]
    assert 0 <= len(encoded.data) - bytes_needed(n, [d_in], dtype) < 4096  # type: ignore[arg-type]


def test_every_hook_counts_with_its_own_width() -> None:
    at_each = [bytes_needed(1000, [width], "bfloat16") for width in (576, 1536)]
    assert bytes_needed(1000, [576, 1536], "bfloat16") == sum(at_each) == 1000 * (576 * 2 + 16 + 1536 * 2 + 16)


def test_a_disk_without_room_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda uri: 3 * 2**28)
    with pytest.raises(InputError) as refused:
        require_room(str(tmp_path), 2**20, [504], "bfloat16")  # 1,024 bytes per row
    assert str(refused.value) == (
        f"The activations of 1,048,576 tokens take 1.0 GiB, but only 768.0 MiB are free at {tmp_path}. "
        "Choose another storage, make room there, or harvest less (text.max_tokens, harvest.hooks, harvest.dtype)."
    )


def test_what_just_fits_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda uri: 2**30)
    require_room(str(tmp_path), 2**20, [504], "bfloat16")


def test_the_room_is_that_of_the_disk_on_which_the_folder_will_be(tmp_path: Path) -> None:
    free = free_bytes(f"{tmp_path}/not/there/yet")
    assert free is not None
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    with pytest.raises(InputError, match="are free at"):
        require_room(f"{tmp_path}/not/there/yet", 100 * free, [576], "bfloat16")


def test_nobody_knows_the_room_of_a_bucket_but_the_estimate_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        require_room("s3://bucket/runs", 10**15, [576], "bfloat16")
    assert caplog.messages == ["activations: 1,000,000,000,000,000 tokens take up to 1,037.4 PiB"]


def own(folder: Path) -> list[str]:
    """Settings of 20 own activations, stored as 32 bytes each."""
    np.save(folder / "four.npy", np.eye(20, 4, dtype=np.float32))
    return [f"storage={folder / 'runs'}", f"activations.source={folder / 'four.npy'}"]


def test_the_command_line_tells_the_estimate_before_anything_is_written(tmp_path: Path) -> None:
    settings = [part for setting in own(tmp_path) for part in ("--set", setting)]
    command = [sys.executable, "-m", "flows.cli", "harvest", "configs/demo.yaml", *settings]
    said = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr for _ in range(2)]
    precision, plan, third = said[0].splitlines()[:3]
    assert precision.startswith("precision: train.precision ")
    assert re.fullmatch(r"plan: time unknown \(saemill plan measures it\), [\d.]+ kB; free [\d.]+ [MGT]B", plan)
    assert third.startswith("harvest: ")
    assert "plan: " not in said[1], "nothing is left to be written"


def test_what_has_begun_is_not_held_against_the_room_that_it_takes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(ROOT / "configs/demo.yaml", own(tmp_path))
    at = addresses(config)
    needed = sum(bytes_left(config, at, check(config)).values())
    monkeypatch.setattr(disk_space, "free_bytes", lambda uri: needed)
    check(config)
    monkeypatch.setattr(disk_space, "free_bytes", lambda uri: needed - 100)
    with pytest.raises(InputError, match=r"This run stores .* \(activations .*, SAE and .*\), but only .* are free at "):
        check(config)
    open_store(at.activations).put("begun", bytes(100))
    check(config)
