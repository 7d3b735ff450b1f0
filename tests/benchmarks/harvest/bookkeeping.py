"""The bookkeeping of a harvest of up to 100,000 shards (3.3 billion tokens), without its rows: seconds, memory, requests.

Sequences' hashes and commit records are made up, of the size of real ones (one hook, d_in 576, 256 positions, shards of
32,768 tokens); all that reads them is the pipeline's own code. Each size runs in a process of its own, which tells its
peak memory. On S3 every request on the wire is counted; on disk, every call to the store.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.reader import Split
from tasks.activations.tensors import as_tensor
from tasks.harvest.commit import hook_entries, manifest
from tasks.harvest.shards import Shard, committed, planned_shards
from tasks.harvest.statistics import norms, sum_rows, with_positions
from tasks.storage.artifacts import relative, to_json, write_manifest
from tasks.storage.base import ObjectStore
from tasks.storage.local import LocalStore
from tasks.storage.objects import open_store
from tasks.storage.s3_client import client
from tests.benchmarks.harness import arguments, environment, finish, peak_bytes
from tests.conftest import s3_server

HOOK, D_IN, CONTEXT, SHARD_TOKENS, ROW_GROUP_ROWS = "model.layers.8", 576, 256, 32_768, 4_096
PER_SHARD = SHARD_TOKENS // CONTEXT
HELD_OUT = 0.1
PHASES = ("plan", "list", "resume", "collect", "write manifest", "open", "deal")


def main() -> None:
    options = arguments(__doc__, _more_arguments)
    if options.one:
        print(json.dumps(_measured(options.one, options.shards)))
        return
    where = environment()
    disk, remote = ([200, 1_000], [200]) if options.quick else ([1_000, 10_000, 100_000], [1_000, 10_000])
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as variables:
        os.environ.update(variables)
        client().mkdir("lake")
        found = [in_a_process(f"{folder}/{n}", n) for n in disk] + [in_a_process(f"s3://lake/{n}", n) for n in remote]
    table = [_row(one) for one in found]
    largest, least = found[len(disk) - 1], found[0]
    checks = {
        "shards": float(largest["shards"]),
        "seconds": sum(largest["seconds"].values()),
        "peak_gib": largest["peak_gib"],
        # 1 if the cost per shard is flat.
        "seconds_per_shard_vs_smallest": _per_shard(largest) / _per_shard(least),
        "s3_requests_per_shard": found[-1]["requests"]["all"] / found[-1]["shards"],
    }
    finish(options.json, checks, table, where)


def _more_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, help=argparse.SUPPRESS)


def in_a_process(root: str, n_shards: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.harvest.bookkeeping", "--one", root, "--shards", str(n_shards)]
    _make(root, n_shards)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{root}: {found}", flush=True)
    return found


def _places(root: str) -> tuple[str, str, str]:
    return f"{root}/tokens/x-{'a' * 12}", f"{root}/shards/x-{'b' * 12}", f"{root}/activations/x-{'c' * 12}"


def _make(root: str, n_shards: int) -> None:
    tokens, shards, _ = _places(root)
    held_out = int(n_shards * HELD_OUT)
    cut = {"train": [(n_shards - held_out) * PER_SHARD], "eval": [held_out * PER_SHARD]}
    hashes = np.random.default_rng(0).integers(0, 2**63, 2 * n_shards * PER_SHARD, np.int64)
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(hashes) // 2, [None, pa.py_buffer(hashes)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"hash": column}), sink, row_group_size=1024, use_dictionary=False)
    open_store(tokens).put("sequences.parquet", sink.getvalue())
    write_manifest(tokens, {"segments": cut, "context_length": CONTEXT})
    record, store = _record(), open_store(shards)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda shard: _put(store, shard.commit_key, record(shard)), planned_shards(tokens, SHARD_TOKENS)))


def _put(store: ObjectStore, key: str, data: bytes) -> None:
    if isinstance(store, LocalStore):  # without the sync that makes a hundred thousand puts take minutes
        path = Path(store.uri, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    else:
        store.put(key, data)


def _record() -> Callable[[Shard], bytes]:
    rows = as_tensor(np.random.default_rng(0).normal(size=(CONTEXT, D_IN)).astype(np.float32))
    row_norms = norms(rows, "float32")
    sums = with_positions(sum_rows(rows, "float32", row_norms), row_norms.reshape(1, CONTEXT)).to_json()
    kept = SHARD_TOKENS - PER_SHARD
    groups = [ROW_GROUP_ROWS] * (kept // ROW_GROUP_ROWS) + [kept % ROW_GROUP_ROWS]

    def of(shard: Shard) -> bytes:
        sha256 = f"{shard.content}{'0' * 48}"
        said = {"key": shard.data_key(HOOK, sha256), "size": kept * (2 * D_IN + 16), "sha256": sha256, "rows": kept}
        return to_json(
            {
                "shard": shard.identity(),
                "objects": {HOOK: {**said, "row_groups": groups}},
                "masked": {HOOK: {"first_position": PER_SHARD, "special": 0, "norm_outlier": 0}},
                "sums": {HOOK: sums},
                "versions": {"python": "3.11.7", "torch": "2.13.0", "pyarrow": "26.0.0"},
                "seconds": 4.2,
                "attempt": 1,
            }
        )

    return of


def _measured(root: str, n_shards: int) -> dict[str, Any]:
    tokens, shards, out = _places(root)
    requests, seconds = _counted(), {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        result = work()
        seconds[name] = time.monotonic() - began
        return result

    wanted = timed("plan", lambda: planned_shards(tokens, SHARD_TOKENS))
    done = timed("list", lambda: committed(shards))
    assert len(wanted) == len(done) == n_shards
    killed = {key for i, key in enumerate(sorted(done)) if i % 2}
    pending = timed("resume", lambda: [shard for shard in wanted if shard.commit_key not in killed])
    assert len(pending) == n_shards - len(killed)
    hooks = timed("collect", lambda: hook_entries(shards, wanted, "bfloat16"))
    facts = {"hash": "c" * 12}
    timed("write manifest", lambda: write_manifest(out, manifest(facts, hooks, shards=relative(shards, out))))
    del hooks, wanted, pending, done, killed
    split = timed("open", lambda: Split(out, HOOK, "train"))
    reader = timed("deal", lambda: LaneReader(out, HOOK, batch_rows=4096, lanes=16, seed=0))
    assert reader.split.rows == split.rows == (n_shards - int(n_shards * HELD_OUT)) * (SHARD_TOKENS - PER_SHARD)
    peak = peak_bytes() / 2**30
    counts = {"all": sum(requests.values()), **requests}
    return {"root": root, "shards": n_shards, "seconds": seconds, "peak_gib": peak, "requests": counts}


def _counted() -> Counter[str]:
    """Counts of requests, filled from now on: S3's by what goes on the wire, the disk's by calls to the store."""
    counts: Counter[str] = Counter()
    import botocore.httpsession  # noqa: F401  # loaded before it is watched
    from aiobotocore.httpsession import AIOHTTPSession

    send = AIOHTTPSession.send

    async def counted(self: Any, request: Any) -> Any:
        listing = request.method == "GET" and "list-type" in request.url
        counts["LIST" if listing else request.method] += 1
        return await send(self, request)

    AIOHTTPSession.send = counted
    for name in ("get", "head", "put", "put_if_absent", "list"):
        setattr(LocalStore, name, _counting(getattr(LocalStore, name), name, counts))
    return counts


def _counting(method: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        counts[name] += 1
        return method(*arguments, **named)

    return call


def _per_shard(found: dict[str, Any]) -> float:
    return float(sum(found["seconds"].values()) / found["shards"])


def _row(found: dict[str, Any]) -> dict[str, Any]:
    requests: Iterator[str] = (f"{n:,} {name}" for name, n in found["requests"].items() if name != "all")
    return {
        "shards": f"{found['shards']:,}",
        "storage": "S3" if found["root"].startswith("s3://") else "disk",
        **{f"{phase}, s": found["seconds"][phase] for phase in PHASES},
        "peak, GiB": found["peak_gib"],
        "requests": ", ".join(requests),
    }


if __name__ == "__main__":
    main()
