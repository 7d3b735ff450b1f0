"""Shuffled training batches from a stored split: GB/s of activations, against reading files without any structure.

On disk all files lie in the page cache. ``LaneReader``, raw reads and one-at-a-time GETs have one core to themselves
(every thread of this process is bound to it); Ray Data has all cores, and its seconds until the first batch are apart.
"""

import contextlib
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tasks.artifacts import write_manifest
from tasks.harvest.commit import HookRows, commit_shard, hook_entry, manifest, read_commits
from tasks.harvest.shards import Shard
from tasks.harvest.statistics import norms, sum_rows
from tasks.store.files import open_file
from tasks.store.lanes import LaneReader
from tasks.store.objects import open_store
from tasks.store.reader import Split
from tasks.store.schema import RowFormat
from tasks.store.writer import Rows
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.rounds import Contender, interleaved, ratio, rows
from tests.conftest import s3_server

HOOK, D_IN, BATCH_ROWS, LANES = "model.layers.8", 576, 4096, 16
SHARD_ROWS = 32_768
# Ray Data reads ahead before it hands out its first batch, so its speed counts only from a quarter of the stream on.
WARM_PART = 4
DISK = ("saemill", "raw reads", "Ray Data", "Ray Data, shuffled")
S3 = ("saemill from S3", "raw GETs", "raw GETs, four at a time")


@dataclass(frozen=True, slots=True)
class Size:
    shards: int
    row_group_rows: int
    rounds: int
    ray_repeats: int


def main() -> None:
    options = arguments(__doc__)
    # 128 row groups either way: one per unit that 16 lanes want, so that none is read twice per epoch.
    size = Size(4, 1024, 2, 4) if options.quick else Size(16, 2048, 7, 6)
    where = environment()
    startup: list[float] = []
    cpu: list[float] = []
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as variables:
        os.environ.update(variables)
        local, remote = _stores(folder, size)
        _start_ray()
        contenders: dict[str, Contender] = {
            DISK[0]: lambda: _alone(lambda: _lanes(local, cpu)),
            DISK[1]: lambda: _alone(lambda: _raw_files(local)),
            DISK[2]: lambda: _ray_data(local, size, startup, None),
            DISK[3]: lambda: _ray_data(local, size, startup, 4 * BATCH_ROWS),
            S3[0]: lambda: _lanes(remote, []),
            S3[1]: lambda: _raw_gets(remote, 1),
            S3[2]: lambda: _raw_gets(remote, 4),
        }
        for contender in (contenders[DISK[0]], contenders[DISK[1]], contenders[S3[0]]):
            contender()  # first reads fill the page cache and load libraries
        cpu.clear()
        startup.clear()
        found = interleaved(contenders, size.rounds)
    table = rows({name: found[name] for name in DISK}, "GB/s", DISK[0]) + rows(
        {name: found[name] for name in S3}, "GB/s", S3[0]
    )
    checks = {
        "reader_gb_per_s_core": statistics.median(found[DISK[0]]),
        "reader_gb_per_cpu_second": statistics.median(cpu),
        "reader_vs_ray_data": ratio(found[DISK[0]], found[DISK[2]]),
        "reader_s3_vs_raw": ratio(found[S3[0]], found[S3[1]]),
        "ray_data_startup_seconds": statistics.median(startup),
    }
    finish(options.json, checks, table, where | {"load_after": os.getloadavg()[0]})


def _stores(folder: str, size: Size) -> tuple[str, str]:
    """The same split on disk and on S3: random bfloat16 rows, whose values do not matter to any reader."""
    import s3fs

    s3fs.S3FileSystem().mkdir("lake")
    stores = (f"{folder}/activations/bench-{'a' * 12}", f"s3://lake/activations/bench-{'a' * 12}")
    rng = np.random.default_rng(0)
    bits = (rng.standard_normal((SHARD_ROWS, D_IN), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    for uri in stores:
        _write(uri, bits, size)
    return stores


def _write(uri: str, bits: "np.ndarray[Any, np.dtype[np.uint16]]", size: Size) -> None:
    row_format = RowFormat(D_IN, "bfloat16", HOOK, "random", "", "a" * 12)
    shards = [Shard("train", index, index * SHARD_ROWS, SHARD_ROWS) for index in range(size.shards)]
    sums = sum_rows(bits, "bfloat16", norms(bits, "bfloat16"))
    position = np.zeros(SHARD_ROWS, np.int32)
    for shard in shards:
        sequence = shard.first_sequence + np.arange(SHARD_ROWS)
        stored = Rows(bits, position, sequence, position)
        commit_shard(open_store(uri), shard, {HOOK: HookRows(stored, row_format, sums, {})}, size.row_group_rows)
    entry = hook_entry(read_commits(uri, shards), HOOK, D_IN, "bfloat16")
    write_manifest(uri, manifest({"benchmark": "reader"}, {HOOK: entry}))


def _start_ray() -> None:
    from tasks.config import RayConfig
    from tasks.on_ray import connect

    connect(RayConfig(object_store_mb=512))  # less than is read in all, or the steady state would be that of memory
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _alone(measure: Callable[[], float]) -> float:
    with _one_core():
        return measure()


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Bind all threads of this process to one core; those that they start inherit it."""
    cores = os.sched_getaffinity(0)
    _bind({max(cores)})
    try:
        yield
    finally:
        _bind(cores)


def _bind(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it ended while we looked
            os.sched_setaffinity(int(thread), cores)


def _lanes(uri: str, cpu: list[float]) -> float:
    """One epoch of shuffled batches; ``cpu`` gets GB per CPU second, which other work on the machine disturbs less."""
    reader = LaneReader(uri, HOOK, batch_rows=BATCH_ROWS, lanes=LANES, seed=0)
    began, began_cpu, seen = time.monotonic(), time.process_time(), 0
    for batch in reader.batches(0, reader.rows // BATCH_ROWS):
        seen += batch.nbytes
    cpu.append(seen / (time.process_time() - began_cpu) / 1e9)
    return seen / (time.monotonic() - began) / 1e9


def _raw_files(uri: str) -> float:
    """All bytes of all shards, a row group's worth at a time, into one buffer that is used again."""
    buffer = bytearray(2048 * D_IN * 2)
    began, seen = time.monotonic(), 0
    for shard in Split(uri, HOOK, "train").shards:
        with open(f"{uri}/{shard['key']}", "rb", buffering=0) as file:
            while read := file.readinto(buffer):
                seen += read
    return seen / (time.monotonic() - began) / 1e9


def _raw_gets(uri: str, at_a_time: int) -> float:
    """The bytes of every row group's activations by ranged GETs, in an order of their own, nothing decoded."""
    from concurrent.futures import ThreadPoolExecutor

    store = open_store(uri)
    ranges = []
    for shard in Split(uri, HOOK, "train").shards:
        footer = pq.ParquetFile(open_file(store, shard["key"], shard["size"])).metadata
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


def _ray_data(uri: str, size: Size, startup: list[float], shuffle_rows: int | None) -> float:
    """Steady state of ``iter_batches`` over the activation column as Arrow tables, the cheapest form it has."""
    import ray

    files = _links(uri, size.ray_repeats)
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
    for number, batch in enumerate(batches):
        if number == 0 and shuffle_rows is None:
            startup.append(time.monotonic() - began)
        seen += len(batch)
        if warm_at is None:
            warm_at = time.monotonic() if seen >= total // WARM_PART else None
        else:
            steady += len(batch) * D_IN * 2
    assert seen == total, f"Ray Data gave {seen} rows of {total}"
    assert warm_at is not None
    return steady / (time.monotonic() - warm_at) / 1e9


if __name__ == "__main__":
    main()
