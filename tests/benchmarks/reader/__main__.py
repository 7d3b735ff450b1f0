"""Shuffled training batches from a stored split: GB/s of activations, against raw reads, Ray Data and SAELens' cached store.

On disk all files lie in the page cache. ``LaneReader``, raw reads and SAELens have one core to themselves (every thread is
bound to it); Ray Data has all cores, and its seconds until the first batch are apart, as are epochs in which the reader
compares CRCs: the first that a process reads. SAELens has an environment of its own, made at first use (``--venv``).
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.schema import RowFormat
from tasks.activations.writer import Rows, encode_shard
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.peers.venv import SAELENS, make_venv
from tests.benchmarks.reader.rivals import (
    BATCH_ROWS,
    BUFFER_ROWS,
    D_IN,
    HOOK,
    SHARD_ROWS,
    make_saelens,
    raw_files,
    raw_gets,
    ray_data,
    saelens,
    start_ray,
)
from tests.benchmarks.rounds import Contender, interleaved, ratio, rows
from tests.conftest import s3_server

LANES, RECIPE = 16, "a" * 12
DISK = ("saemill", "saemill, first epoch", "raw reads", "Ray Data", "Ray Data, shuffled", "SAELens")
S3 = ("saemill from S3", "raw GETs", "raw GETs, four at a time")


@dataclass(frozen=True, slots=True)
class Size:
    shards: int
    row_group_rows: int
    rounds: int
    ray_repeats: int


def main() -> None:
    options = arguments(__doc__, _more_arguments)
    # 128 row groups either way: one per unit that 16 lanes want.
    size = Size(4, 1024, 2, 4) if options.quick else Size(16, 2048, 7, 6)
    where = environment()
    make_venv("saelens", options.venv)
    startup: list[float] = []
    cpu: dict[str, list[float]] = {name: [] for name in ("later", "first", "s3", "ray", "ray shuffled")}
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as variables:
        os.environ.update(variables)
        local, remote = _stores(folder, size)
        n_rows = size.shards * SHARD_ROWS
        make_saelens(folder, options.venv, n_rows)
        start_ray()
        contenders: dict[str, Contender] = {
            DISK[0]: lambda: _alone(lambda: _lanes(local, cpu["later"], epochs=3)),
            DISK[1]: lambda: _alone(lambda: _lanes(_touched(local), cpu["first"])),
            DISK[2]: lambda: _alone(lambda: raw_files(local)),
            DISK[3]: lambda: ray_data(local, size.ray_repeats, startup, cpu["ray"], None),
            DISK[4]: lambda: ray_data(local, size.ray_repeats, startup, cpu["ray shuffled"], BUFFER_ROWS),
            DISK[5]: lambda: saelens(folder, options.venv, n_rows),
            S3[0]: lambda: _lanes(remote, cpu["s3"], epochs=2),
            S3[1]: lambda: raw_gets(remote, 1),
            S3[2]: lambda: raw_gets(remote, 4),
        }
        for name in (DISK[1], DISK[0], DISK[2], DISK[5], S3[0]):
            contenders[name]()  # first reads fill the page cache and load libraries
        for speeds in (startup, *cpu.values()):
            speeds.clear()
        found = interleaved(contenders, options.rounds or size.rounds)
    table = rows({name: found[name] for name in DISK}, "GB/s", DISK[0]) + rows(
        {name: found[name] for name in S3}, "GB/s", S3[0]
    )
    finish(options.json, _checks(found, cpu, startup), table, where | {"load_after": os.getloadavg()[0]})


def _more_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--venv", type=Path, default=SAELENS.venv, help="SAELens' environment")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")


def _checks(found: dict[str, list[float]], cpu: dict[str, list[float]], startup: list[float]) -> dict[str, float]:
    return {
        "reader_gb_per_s_core": statistics.median(found[DISK[0]]),
        "reader_gb_per_cpu_second": statistics.median(cpu["later"]),
        "reader_first_epoch_gb_per_cpu_second": statistics.median(cpu["first"]),
        "reader_vs_ray_data": ratio(found[DISK[0]], found[DISK[3]]),
        "reader_vs_ray_data_per_cpu_second": ratio(cpu["later"], cpu["ray"]),
        "reader_vs_ray_data_shuffled_per_cpu_second": ratio(cpu["later"], cpu["ray shuffled"]),
        "reader_vs_saelens": ratio(found[DISK[0]], found[DISK[5]]),
        "reader_s3_vs_raw": ratio(found[S3[0]], found[S3[1]]),
        "reader_s3_vs_raw_four_at_a_time": ratio(found[S3[0]], found[S3[2]]),
        "reader_s3_gb_per_cpu_second": statistics.median(cpu["s3"]),
        "ray_data_startup_seconds": statistics.median(startup),
    }


def _stores(folder: str, size: Size) -> tuple[str, str]:
    """The same split on disk and on S3: random bfloat16 rows, whose values do not matter to any reader."""
    import s3fs

    s3fs.S3FileSystem().mkdir("lake")
    stores = (f"{folder}/activations/bench-{RECIPE}", f"s3://lake/activations/bench-{RECIPE}")
    rng = np.random.default_rng(0)
    bits = (rng.standard_normal((SHARD_ROWS, D_IN), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    shards = [_write(stores, bits, number, size.row_group_rows) for number in range(size.shards)]
    split = {"rows": size.shards * SHARD_ROWS, "shards": shards}
    statistics = {name: {"mean": [0.0] * D_IN, "variance": 1.0, "median_norm": 1.0} for name in ("train", "eval")}
    entry = {"d_in": D_IN, "dtype": "bfloat16", "splits": {"train": split, "eval": split}, "statistics": statistics}
    for uri in stores:
        write_manifest(uri, {"recipe": {"hash": RECIPE}, "hooks": {HOOK: entry}})
    return stores


def _write(
    stores: tuple[str, ...], bits: "np.ndarray[Any, np.dtype[np.uint16]]", number: int, row_group_rows: int
) -> dict[str, Any]:
    """Put a shard into each store; what the manifest says of it."""
    zeros = np.zeros(len(bits), np.int32)
    row_format = RowFormat(D_IN, "bfloat16", HOOK, "random", "", RECIPE, shard=f"train-{number:05d}")
    encoded = encode_shard(Rows(bits, zeros, np.arange(len(bits)), zeros), row_format, row_group_rows)
    key = f"{HOOK}/train/{number:05d}-{encoded.sha256[:12]}.parquet"
    for uri in stores:
        open_store(uri).put(key, encoded.data)
    counts = {"rows": encoded.rows, "row_groups": encoded.row_groups, "first_sequence": number * len(bits)}
    return {"key": key, "size": len(encoded.data), "sha256": encoded.sha256} | counts


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


def _lanes(uri: str, cpu: list[float], epochs: int = 1) -> float:
    """Epochs of shuffled batches; ``cpu`` gets GB per CPU second, which other work on the machine disturbs less."""
    reader = LaneReader(uri, HOOK, batch_rows=BATCH_ROWS, lanes=LANES, seed=0)
    began, began_cpu, seen = time.monotonic(), time.process_time(), 0
    for batch in reader.batches(0, epochs * reader.split.rows // BATCH_ROWS):
        seen += batch.nbytes
    cpu.append(seen / (time.process_time() - began_cpu) / 1e9)
    return seen / (time.monotonic() - began) / 1e9


def _touched(uri: str) -> str:
    """The same files as if just written, so that the reader compares their CRCs once more."""
    for path in Path(uri).rglob("*.parquet"):
        path.touch()
    return uri


if __name__ == "__main__":
    main()
