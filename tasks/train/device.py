"""On what a training runs: on GPUs or on CPUs, and which of them ``train.use_gpu: auto`` comes to.

A device adds up in an order of its own, so a run that changed it would end with other bits. So ``auto`` keeps a run on the
kind of device on which it began.
"""

import logging
from collections.abc import Sequence
from typing import Literal

from tasks.errors import InputError
from tasks.gpus import Capability
from tasks.precision import Machine
from tasks.storage.artifacts import parse_json
from tasks.storage.faults import DAMAGE
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS, PART, kept
from tasks.train.config import TrainConfig

logger = logging.getLogger(__name__)

Kind = Literal["cpu", "cuda"]
_CALLED: dict[Kind, str] = {"cpu": "CPUs", "cuda": "GPUs"}
OLDEST: Capability = (7, 5)
"""What ``auto`` trains on at least: builds of torch for CUDA 13 hold code for nothing older
(https://github.com/pytorch/pytorch/blob/main/RELEASE.md)."""


def usable_gpus(machines: Sequence[Machine]) -> int:
    """How many GPUs ``auto`` may train on: all that there are, or none where one of them is too old for it."""
    found = [capability for machine in machines for capability in machine.gpus]
    return len(found) if found and min(found) >= OLDEST else 0


def workers_on(train: TrainConfig, n_gpus: int) -> int:
    """How many workers can have a GPU each: all, or at least train.min_workers, or as many as there are GPUs; 0: none."""
    return train.workers if n_gpus >= train.least_workers else train.dealt_evenly(n_gpus)


def trains_on_gpus(train: TrainConfig, machines: Sequence[Machine]) -> bool:
    """Whether a training that begins on these machines gets GPUs."""
    return train.on_gpus or (train.use_gpu == "auto" and workers_on(train, usable_gpus(machines)) > 0)


def settled(train: TrainConfig, machines: Sequence[Machine], begun: Kind | None) -> tuple[TrainConfig, str | None]:
    """The settings with ``use_gpu`` true or false, and a line that tells the choice; None where there was none.

    Args:
        train: as given.
        machines: where it trains.
        begun: the kind of device of the checkpoint that it goes on from; None where there is none, or it does not say.

    Raises:
        InputError: it began on GPUs, of which there are not enough now, and nobody has said that CPUs will do.
    """
    there, n_gpus = sum(len(machine.gpus) for machine in machines), usable_gpus(machines)
    n_workers = workers_on(train, n_gpus)
    if train.use_gpu != "auto":
        return train, _changed(train, begun)
    if begun == "cuda" and n_workers == 0:
        raise InputError(
            f"This training began on GPUs, but the Ray cluster has {n_gpus} that it could go on with. Give it GPUs, or set "
            "train.use_gpu to false to go on on CPUs, with results that are the same to rounding."
        )
    if begun == "cpu" or n_workers == 0:
        return train.model_copy(update={"use_gpu": False}), _why_cpus(there, n_gpus, begun)
    fewer = {"workers": n_workers, "min_workers": None} if n_workers < train.workers else {}
    return train.model_copy(update={"use_gpu": True, **fewer}), f"on {_gpus(n_workers)}, {_workers(train, n_workers)}"


def begun_on(out: str) -> Kind | None:
    """The kind of device that the newest checkpoint below ``out`` was taken on; None where none of them says."""
    store = open_store(out)
    for folder in reversed(kept(store, f"{CHECKPOINTS}/")):
        for name in (info.key for info in store.list(f"{folder}/")):
            if PART.fullmatch(name.rpartition("/")[2]) and (kind := _kind(store.get(name))) is not None:
                return kind
    return None


def _kind(facts: bytes) -> Kind | None:
    try:
        told = parse_json(facts)["device"]
    except DAMAGE:  # it was cut short, or is of an earlier version
        return None
    return next((kind for kind in _CALLED if kind == told), None)


def _changed(train: TrainConfig, begun: Kind | None) -> str | None:
    now: Kind = "cuda" if train.on_gpus else "cpu"
    if begun in (None, now):
        return None
    return (
        f"on {_CALLED[now]} from here, as train.use_gpu says; up to its last checkpoint it was on {_CALLED[begun]}. The "
        "result is the same to rounding, not to the bit"
    )


def _why_cpus(there: int, n_gpus: int, begun: Kind | None) -> str | None:
    if there == 0:
        return None
    if n_gpus == 0:
        oldest = ".".join(map(str, OLDEST))
        return f"on CPUs, as not all of the {_gpus(there)} are of compute capability {oldest} or later (train.use_gpu)"
    if begun is not None:
        return f"on CPUs, on which it began; the {_gpus(there)} would give another rounding (train.use_gpu)"
    return f"on CPUs, as train.latent_shards wants more workers than there are GPUs ({there})"


def _gpus(n: int) -> str:
    return f"{n} GPU{'' if n == 1 else 's'}"


def _workers(train: TrainConfig, n_workers: int) -> str:
    if n_workers < train.workers:
        return f"with as many workers in place of train.workers ({train.workers}); train.use_gpu=false takes CPUs"
    return "one for each worker; train.use_gpu=false takes CPUs"
