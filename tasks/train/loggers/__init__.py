"""The curve of a training run in TensorBoard, MLflow or Weights & Biases, whose libraries are optional extras.

Each library works in a thread of its own: a slow one does not hold up training, and one that breaks is dropped. What it
has of a run is looked up as the run goes on, so no step of the curve is logged twice and none is missing, wherever the
run was killed.
"""

import importlib.util
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from tasks.errors import InputError
from tasks.storage.artifacts import identity
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS, kept
from tasks.train.config import TrainConfig
from tasks.train.loggers import background
from tasks.train.loggers.facts import RunFacts, RunLogger
from tasks.train.loggers.mlflow import MlflowLogger
from tasks.train.loggers.tensorboard import TensorBoardLogger
from tasks.train.loggers.wandb import WandbLogger
from tasks.train.loop import Run
from tasks.train.plan import Plan
from tasks.train.run_settings import RunSettings

logger = logging.getLogger(__name__)

LOGGERS: dict[str, Callable[[str, RunFacts, str], RunLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}
"""By setting of ``train``, which is also the name of the package that it needs and of the extra that brings it."""


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
    config: RunSettings, plan: Plan, out: str, folder: str = ".", warn: Callable[[str], None] = logger.warning
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
    opened = [
        _in_background(setting, getattr(config.train, setting), facts, folder, warn) for setting in _wanted(config.train)
    ]
    handed, failed = 0, True

    def on_row(run: Run) -> None:
        nonlocal handed
        for row in run.curve[handed:]:
            share = run.timing.waiting / run.timing.seconds if row is run.curve[-1] else None
            for one in opened:
                one.log(row, share)
        handed = len(run.curve)

    try:
        for one in opened:
            one.wait_until_open(refuse=not goes_on)
        yield on_row
        failed = False
    finally:
        for one in opened:
            one.close(failed)
        deadline = time.monotonic() + background.CLOSE_S
        for one in opened:
            one.wait_until_closed(deadline)


def _in_background(
    setting: str, value: str, facts: RunFacts, folder: str, warn: Callable[[str], None]
) -> background.BackgroundLogger:
    return background.BackgroundLogger(setting, value, partial(LOGGERS[setting], value, facts, folder), warn)


def settings_of(config: RunSettings, plan: Plan) -> dict[str, Any]:
    """All settings by dotted name, those of the SAE and of the plan as they were resolved.

    The loggers' own are left out: an address may hold a password.
    """
    train = config.train.model_dump(mode="json", exclude=set(LOGGERS))
    values = {**config.shown, "sae": asdict(plan.sae), "train": train}
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
    return [setting for setting in LOGGERS if getattr(train, setting) is not None]


def _run_id(out: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", identity(out)).strip("-")[-64:]
