"""How long a training step waits for its rows: the demo's activations from local disk and from an S3 server on loopback.

    python -m tests.benchmarks.reader.waiting [--quick] [--json FILE] [--storage FOLDER]

One worker with all cores, which takes its steps fastest, at the demo's d_sae and at 9216. ``checks``: the share of the wall
time that is spent waiting for the next batch, in steady state: without the first tenth of the steps.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from flows.config import load_config
from tasks.sae.mesh import OneProcess
from tasks.storage.objects import open_store
from tasks.train.loop import Run
from tasks.train.timing import Timing
from tasks.train.worker import Worker
from tests.benchmarks import ROOT
from tests.benchmarks.command_line import harvested
from tests.benchmarks.harness import arguments, environment, finish
from tests.composed import run_settings
from tests.conftest import s3_server

D_SAE = (4608, 9216)


def main() -> None:
    options, where = arguments(__doc__ or "", _add), environment()
    settings = ["text.max_tokens=30000", "train.batch_tokens=256"] if options.quick else []
    tokens = 20_000 if options.quick else options.tokens
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as variables:
        os.environ.update(variables)
        storage = options.storage or f"{folder}/runs"
        local = harvested("configs/demo.yaml", storage, settings)
        table = []
        for d_sae in D_SAE:
            for name, activations in (("disk", local), ("S3", _in_a_bucket(storage, local))):
                chosen = [*settings, f"sae.d_sae={d_sae}", f"train.tokens={tokens}"]
                table.append({"rows from": name, "d_sae": d_sae} | _waited(chosen, activations, f"{folder}/{d_sae}-{name}"))
                print(table[-1], flush=True)
    checks = {f"waiting_share_{row['rows from'].lower()}_{row['d_sae']}": row["waiting share"] for row in table}
    finish(options.json, checks, table, where)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", help="where the demo's activations are or come; a temporary folder if empty")
    parser.add_argument("--tokens", type=int, default=400_000, help="rows that each SAE is trained on")


def _in_a_bucket(storage: str, activations: str) -> str:
    """The same activations in a bucket, copied with the shards that they list."""
    import s3fs

    files = s3fs.S3FileSystem()
    if not files.exists("waiting"):
        files.mkdir("waiting")
        source, target = open_store(storage), open_store("s3://waiting")
        for part in ("activations/", "shards/"):
            for info in source.list(part):
                target.put(info.key, source.get(info.key))
    return f"s3://waiting/activations/{Path(activations).name}"


def _waited(settings: list[str], activations: str, out: str) -> dict[str, Any]:
    """Shares of the time from the first tenth of the steps to the last."""
    seen: list[Timing] = []
    worker = Worker(run_settings(load_config(ROOT / "configs/demo.yaml", settings)), activations, out, OneProcess())

    def note(run: Run) -> None:
        if run.state.step * 10 >= worker.plan.n_steps:
            seen.append(Timing(run.timing.seconds, run.timing.waiting, read_bytes=run.timing.read_bytes))

    worker.train(note)
    seconds, read = seen[-1].seconds - seen[0].seconds, seen[-1].read_bytes - seen[0].read_bytes
    return {
        "waiting share": (seen[-1].waiting - seen[0].waiting) / seconds,
        "tokens/s": read / (worker.plan.layout.d_in * 2) / seconds,
        "MB/s": read / 1e6 / seconds,
    }


if __name__ == "__main__":
    main()
