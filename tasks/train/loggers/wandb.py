"""Weights & Biases."""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.train.curve import CurveRow
from tasks.train.loggers.facts import RunFacts, figures


class WandbLogger:
    """A run whose id is that of the SAE; mode, key and entity come from W&B's own environment variables."""

    def __init__(self, target: str, facts: RunFacts, folder: str) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=target,
            id=facts.id,
            name=facts.name,
            resume="allow",
            config=dict(facts.settings),
            dir=None if "WANDB_DIR" in os.environ else folder,  # an argument would win over W&B's own variable
            settings=wandb.Settings(silent=True, console="off"),
        )
        offline = Path(self._run.settings.wandb_dir), facts.id
        self._last = _last_offline_step(*offline) if self._run.offline else self._run.step - 1

    def log(self, row: CurveRow, waiting: float | None) -> None:
        """Hand a row to W&B's own process."""
        if row.step > self._last:
            self._run.log(figures(row, waiting), step=row.step)

    def close(self, failed: bool) -> None:
        """Have the rest uploaded."""
        self._run.finish(exit_code=int(failed))


def _last_offline_step(folder: Path, run_id: str) -> int:
    """The last step that earlier attempts without a network left on disk, -1 without any; W&B does not look there."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    last = -1
    for path in folder.glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"):
        with suppress(DecodeError):  # the end of a file whose writer was killed
            for data in log_records(path.read_bytes()):
                record = Record.FromString(data)
                if record.HasField("history"):
                    last = max(last, record.history.step.num)
    return last


def log_records(data: bytes) -> Iterator[bytes]:
    """The whole records of a ``.wandb`` file: after 7 bytes of its own, LevelDB's log format in blocks of 32 KiB.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    at, record = 7, b""
    while at + 7 <= len(data):
        left = -at % 32768 or 32768
        if left < 7:  # too little for a header: the next one is in the next block
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind not in (1, 2, 3, 4) or at + 7 + length > len(data):
            return
        record = data[at + 7 : at + 7 + length] if kind in (1, 2) else record + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield record
