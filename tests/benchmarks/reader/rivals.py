"""Whom the reader is measured against: raw reads and GETs without structure, Ray Data, SAELens' cached store."""

import contextlib
import logging
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from tasks.activations.reader import Split
from tasks.storage.objects import open_store

HOOK, D_IN, BATCH_ROWS = "model.layers.8", 576, 4096
SHARD_ROWS = 32_768
# Ray Data reads ahead before it hands out its first batch, so its speed counts only from a quarter of the stream on.
WARM_PART = 4
# So many rows are shuffled with each other by rivals that hold a buffer.
BUFFER_ROWS = 4 * BATCH_ROWS
_SAELENS_CONTEXT = 256


def start_ray() -> None:
    from tasks.ray_cluster import connect
    from tasks.ray_config import RayConfig

    connect(RayConfig(object_store_mb=512))  # less than is read in all, or the steady state would be that of memory
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def raw_files(uri: str) -> float:
    """All bytes of all shards, a row group's worth at a time, into one buffer that is used again."""
    buffer = bytearray(2048 * D_IN * 2)
    began, seen = time.monotonic(), 0
    for shard in Split(uri, HOOK, "train").shards:
        with open(f"{uri}/{shard['key']}", "rb", buffering=0) as file:
            while read := file.readinto(buffer):
                seen += read
    return seen / (time.monotonic() - began) / 1e9


def raw_gets(uri: str, at_a_time: int) -> float:
    """The bytes of every row group's activations by ranged GETs, in an order of their own, nothing decoded."""
    store = open_store(uri)
    ranges = []
    for shard in Split(uri, HOOK, "train").shards:
        footer = pq.ParquetFile(store.open(shard["key"], shard["size"])).metadata
        for group in range(footer.num_row_groups):
            column = footer.row_group(group).column(0)
            ranges.append((shard["key"], column.data_page_offset, column.total_compressed_size))
    order = np.random.default_rng(0).permutation(len(ranges))
    began = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as pool:
        seen = sum(pool.map(lambda i: len(store.get(*ranges[i])), order))
    return seen / (time.monotonic() - began) / 1e9


def _links(uri: str, repeats: int) -> list[str]:
    """All shards several times over, each time by another name: Ray Data 2.60 drops rows of files named twice."""
    files = []
    for number in range(repeats):
        for shard in Split(uri, HOOK, "train").shards:
            link = Path(f"{uri}/{shard['key']}.{number}.parquet")
            if not link.exists():
                link.hardlink_to(f"{uri}/{shard['key']}")
            files.append(str(link))
    return files


def ray_data(uri: str, repeats: int, startup: list[float], cpu: list[float], shuffle_rows: int | None) -> float:
    """Steady state of ``iter_batches`` over the activation column as Arrow tables, the cheapest form it has.

    ``cpu`` gets GB per CPU second of all its processes, which other work on the machine disturbs less.
    """
    import ray

    files = _links(uri, repeats)
    total = len(files) * SHARD_ROWS
    began = time.monotonic()
    batches = (
        ray.data.read_parquet(files)
        .select_columns(["activation"])
        .iter_batches(
            batch_size=BATCH_ROWS, batch_format="pyarrow", prefetch_batches=4, local_shuffle_buffer_size=shuffle_rows
        )
    )
    seen, steady = 0, 0
    warm_at: float | None = None
    warm_cpu = 0.0
    for number, batch in enumerate(batches):
        if number == 0 and shuffle_rows is None:
            startup.append(time.monotonic() - began)
        seen += len(batch)
        if warm_at is None:
            if seen >= total // WARM_PART:
                warm_at, warm_cpu = time.monotonic(), _cpu_seconds()
        else:
            steady += len(batch) * D_IN * 2
    assert seen == total, f"Ray Data gave {seen} rows of {total}"
    assert warm_at is not None
    cpu.append(steady / (_cpu_seconds() - warm_cpu) / 1e9)
    return steady / (time.monotonic() - warm_at) / 1e9


def _cpu_seconds() -> float:
    """Of this process and all below it, ended ones too."""
    seconds = 0.0
    for process in (here := psutil.Process(), *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])  # user and system, its own and those of children that ended
    return seconds


def make_saelens(folder: str, venv: Path, rows: int) -> None:
    """As many rows as a dataset that SAELens' runner might have cached."""
    _saelens("make", folder, venv, rows)


def saelens(folder: str, venv: Path, rows: int) -> float:
    """Its ActivationsStore, which shuffles within a buffer of four batches, half of which it keeps."""
    return float(_saelens("read", folder, venv, rows).splitlines()[-1])


def _saelens(what: str, folder: str, venv: Path, rows: int) -> str:
    settings = {
        "path": f"{folder}/saelens",
        "hook": HOOK,
        "context": _SAELENS_CONTEXT,
        "d-in": D_IN,
        "rows": rows,
        "batch": BATCH_ROWS,
        "core": max(os.sched_getaffinity(0)),
    }
    command = [str(venv / "bin" / "python"), str(Path(__file__).with_name("saelens.py")), what]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/hf"}
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(command, env=os.environ | offline | quiet, stdout=subprocess.PIPE, text=True, check=True).stdout
