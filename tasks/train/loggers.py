"""The curve of a training run in TensorBoard, MLflow or Weights & Biases, whose libraries are optional extras.

Each library works in a thread of its own: a slow one does not hold up training, and one that breaks is dropped. What it
has of a run is looked up as the run goes on, so no step of the curve is logged twice and none is missing, wherever the
run was killed.
"""

import importlib.util
import json
import logging
import os
import queue
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from tasks.artifacts import identity
from tasks.config import PipelineConfig
from tasks.errors import InputError
from tasks.store.objects import open_store
from tasks.train.config import TrainConfig
from tasks.train.curve import CurveRow
from tasks.train.loop import Run
from tasks.train.plan import Plan
from tasks.train.state import kept
from tasks.train.worker import CHECKPOINTS

logger = logging.getLogger(__name__)

SETTINGS = ("tensorboard", "mlflow", "wandb")
"""Of ``train``; each is also the name of the package that it needs and of the extra that brings it."""
OPEN_S = 60.0
"""How long a logger may take to begin."""
CLOSE_S = 30.0
"""How long the end of training waits for loggers that have rows left to send."""
_EXPERIMENT = "saemill"
_TAG = "saemill.sae"


class RunLogger(Protocol):
    """A place where the curve of one run is shown."""

    def log(self, row: CurveRow, waiting: float | None) -> None:
        """Show a row that was not logged before. ``waiting`` is the share of time so far that the next batch was waited
        for, None where it is not known any more: a row from before a kill that had not been logged then.
        """

    def close(self, failed: bool) -> None:
        """Send what is left; ``failed``: training did not reach its end."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a logger shows of a run beside its curve."""

    name: str
    """Of the SAE's directory."""
    id: str
    """The same whenever the run goes on: the hash in the SAE's address."""
    settings: Mapping[str, Any]
    """By dotted name, with nothing left open."""


def check_loggers(train: TrainConfig) -> None:
    """Refuse loggers that cannot work on this machine; imports none of their libraries.

    Raises:
        InputError: a library is not installed, or train.tensorboard is no folder.
    """
    for setting in _wanted(train):
        spec = importlib.util.find_spec(setting)
        if spec is None or spec.origin is None:  # no origin: a folder of that name, such as W&B's own ./wandb
            raise InputError(
                f"train.{setting} is set but the package {setting} is not installed. "
                f"Run pip install 'saemill[{setting}]', or leave train.{setting} empty."
            )
    if train.tensorboard is not None and "://" in train.tensorboard:
        raise InputError(f"train.tensorboard is {train.tensorboard!r} but must be a folder.")


@contextmanager
def open_loggers(
    config: PipelineConfig, plan: Plan, out: str, folder: str = ".", warn: Callable[[str], None] = logger.warning
) -> Iterator[Callable[[Run], None]]:
    """The loggers of the SAE below ``out``, as one listener to the rows of its curve; they are closed on leaving.

    Relative paths are taken from ``folder``. ``warn`` gets one sentence about each logger that breaks.

    Raises:
        InputError: on entering, where a library is missing or refuses the setting. A run that goes on from a checkpoint
            is warned instead: its logger's server may be away for a while.
    """
    check_loggers(config.train)
    goes_on = bool(kept(open_store(out), f"{CHECKPOINTS}/"))
    facts = RunFacts(out.rstrip("/").rpartition("/")[2], _run_id(out), settings_of(config, plan))
    asides = [_Aside(setting, getattr(config.train, setting), facts, folder, warn) for setting in _wanted(config.train)]
    handed, failed = 0, True

    def on_row(run: Run) -> None:
        nonlocal handed
        for row in run.curve[handed:]:
            share = run.spent.waiting / run.spent.seconds if row is run.curve[-1] else None
            for aside in asides:
                aside.log(row, share)
        handed = len(run.curve)

    try:
        for aside in asides:
            aside.wait_until_open(refuse=not goes_on)
        yield on_row
        failed = False
    finally:
        for aside in asides:
            aside.close(failed)
        deadline = time.monotonic() + CLOSE_S
        for aside in asides:
            aside.wait_until_closed(deadline)


def settings_of(config: PipelineConfig, plan: Plan) -> dict[str, Any]:
    """All settings by dotted name, those of the SAE and of the plan as they were resolved.

    The loggers' own are left out: an address may hold a password.
    """
    values = config.model_dump(mode="json", exclude={"train": set(SETTINGS)}) | {"sae": asdict(plan.sae)}
    resolved = {field.name: getattr(plan, field.name) for field in fields(plan)}
    values["plan"] = {name: value for name, value in resolved.items() if isinstance(value, int | float)}
    return dict(_flat(values))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, int | float | str | None) else json.dumps(value)


def _wanted(train: TrainConfig) -> list[str]:
    return [setting for setting in SETTINGS if getattr(train, setting) is not None]


def _run_id(out: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", identity(out)).strip("-")[-64:]


def _figures(row: CurveRow, waiting: float | None) -> dict[str, float]:
    """What is shown of a row, by name."""
    figures = {f"train/{name}": value for name, value in asdict(row).items() if name != "step"}
    return figures if waiting is None else figures | {"train/waiting": waiting}


class _Aside:
    """Works one logger in a thread, which gets what there is to log through a queue that never holds up the sender."""

    def __init__(self, setting: str, value: str, facts: RunFacts, folder: str, warn: Callable[[str], None]) -> None:
        self._setting, self._value, self._warn = setting, value, warn
        self._orders = queue.SimpleQueue[tuple[CurveRow, float | None] | bool]()
        self._opened = Future[None]()
        self._thread = threading.Thread(target=self._work, args=(facts, folder), name=f"train.{setting}", daemon=True)
        self._thread.start()

    def log(self, row: CurveRow, waiting: float | None) -> None:
        if self._thread.is_alive():
            self._orders.put((row, waiting))

    def close(self, failed: bool) -> None:
        self._orders.put(failed)

    def wait_until_open(self, refuse: bool) -> None:
        """Raise or warn where the logger does not begin."""
        try:
            self._opened.result(OPEN_S)
        except Exception as error:
            why = f"did not answer within {OPEN_S:g} s" if isinstance(error, TimeoutError) else _sentence(error)
            message = f"train.{self._setting} is {_without_password(self._value)!r} but cannot be logged to: {why}"
            if refuse:
                raise InputError(f"{message}. Correct train.{self._setting}, or leave it empty.") from None
            self._warn(f"{message}. Training goes on without it.")

    def wait_until_closed(self, deadline: float) -> None:
        if not self._opened.done():
            return  # said already
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"train.{self._setting} did not take the last rows within {CLOSE_S:g} s; training ends without it.")

    def _work(self, facts: RunFacts, folder: str) -> None:
        try:
            run_logger = _OPENERS[self._setting](self._value, facts, folder)
        except Exception as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            while not isinstance(order := self._orders.get(), bool):
                run_logger.log(*order)
            run_logger.close(order)
        except Exception as error:
            self._warn(f"train.{self._setting} failed and is dropped, training goes on: {_sentence(error)}.")
            with suppress(Exception):
                run_logger.close(failed=True)


def _sentence(error: Exception) -> str:
    """An error on one line, of bearable length and without passwords."""
    text = _without_password(" ".join(f"{type(error).__name__}: {error}".split()))
    return (text if len(text) <= 400 else f"{text[:400]}...").rstrip(".")


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", text)


class TensorBoardLogger:
    """Event files in ``<train.tensorboard>/<name>``; those of earlier attempts are gone on from."""

    def __init__(self, target: str, facts: RunFacts, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = Path(folder, target, facts.name)
        path.mkdir(parents=True, exist_ok=True)
        self._last = self._last_step(path)
        # A kill may have cut a row short: from the first that is not whole on, what is there is thrown away.
        self._writer: Any = SummaryWriter(str(path), purge_step=self._last + 1 if self._last >= 0 else None)
        if self._last < 0:
            lines = [f"| {name} | {value} |" for name, value in facts.settings.items()]
            self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]), 0)
            self._writer.flush()

    @staticmethod
    def _last_step(path: Path) -> int:
        """The last step of which all figures are there, -1 without any."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        tags = [f"train/{field.name}" for field in fields(CurveRow) if field.name != "step"]
        there = events.Tags()["scalars"]
        return min(max(event.step for event in events.Scalars(tag)) if tag in there else -1 for tag in tags)

    def log(self, row: CurveRow, waiting: float | None) -> None:
        """Append a row and hand it to the file system."""
        if row.step <= self._last:
            return
        for name, value in _figures(row, waiting).items():
            self._writer.add_scalar(name, value, row.step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


class MlflowLogger:
    """A run of the experiment ``saemill``, found again by a tag."""

    def __init__(self, target: str, facts: RunFacts, folder: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read as the library is imported
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(_absolute(target, folder))
        experiment = self._client.get_experiment_by_name(_EXPERIMENT)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(_EXPERIMENT)
        found = self._client.search_runs([experiment_id], f"tags.`{_TAG}` = '{facts.id}'", max_results=1)
        self._last: dict[str, int] = {}
        if found:
            self._run: str = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            for name in found[0].data.metrics:
                self._last[name] = max(metric.step for metric in self._client.get_metric_history(self._run, name))
            return
        self._run = self._client.create_run(experiment_id, run_name=facts.name, tags={_TAG: facts.id}).info.run_id
        params = [Param(name, str(value)[:6000]) for name, value in facts.settings.items()]  # 6000: MLflow's limit
        for i in range(0, len(params), 100):  # a request's
            self._client.log_batch(self._run, params=params[i : i + 100])

    def log(self, row: CurveRow, waiting: float | None) -> None:
        """Send those figures of a row that are not there."""
        from mlflow.entities import Metric

        now, figures = int(time.time() * 1000), _figures(row, waiting)
        new = [Metric(name, value, now, row.step) for name, value in figures.items() if row.step > self._last.get(name, -1)]
        if new:
            self._client.log_batch(self._run, metrics=new)

    def close(self, failed: bool) -> None:
        """Tell how the run ended."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _absolute(uri: str, folder: str) -> str:
    """A tracking URI whose path, if it has a relative one, begins at ``folder``."""
    scheme, slashes, path = uri.rpartition(":///")
    if scheme.startswith("sqlite") and not path.startswith("/"):
        return f"{scheme}{slashes}{Path(folder, path).absolute()}"
    return uri


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
            self._run.log(_figures(row, waiting), step=row.step)

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


_OPENERS: dict[str, Callable[[str, RunFacts, str], RunLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}
