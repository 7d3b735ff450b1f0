"""How the workers of a job meet; their process group is torch's, but whoever starts them needs no torch.

Ray's own ``TorchConfig`` (2.60, ray/train/torch/config.py) imports torch in the process that asks for workers and in the
one that watches them, too: 2.4 s of CPU each (Zen 3). What is called here inside the workers is Ray's.

Workers of one machine meet through a file that only their user can read. Through a TCPStore, as those of several machines
do, they would listen on every interface and believe whoever connects.
"""

import logging
import os
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.constants import (
    DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S,
    TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S,
)
from typing_extensions import override

logger = logging.getLogger(__name__)

_TIMEOUT_S = 600
"""How long a worker waits for the others in one exchange."""


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc] # Ray is not typed
    """A process group of torch's that all workers are in."""

    backend: str
    """gloo or nccl. On one machine both are told to use loopback when the cluster is started."""
    is_one_machine: bool

    @property
    @override
    def backend_cls(self) -> type:
        """What Ray Train calls when its workers are there."""
        return _ProcessGroupBackend

    @property
    @override
    def train_func_context(self) -> type:
        """What Ray Train enters around a worker's work."""
        return _OnItsDevice


class _OnItsDevice:
    def __enter__(self) -> None:
        from ray.train.torch.config import TorchConfigContextManager  # in a worker

        TorchConfigContextManager().__enter__()

    def __exit__(self, *_: object) -> None:
        pass


class _ProcessGroupBackend(Backend):  # type: ignore[misc] # Ray is not typed
    share_cuda_visible_devices = True
    """NCCL on one node wants to see the other workers' GPUs."""

    @override
    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Let all workers join at a place that is new each time."""
        place = _file() if backend_config.is_one_machine else _address(worker_group)
        n = len(worker_group)
        ray.get([worker_group.execute_single_async(i, _join, backend_config.backend, i, n, place) for i in range(n)])

    @override
    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Let all workers leave; those that do not in time are killed afterwards anyway."""
        leaving = worker_group.execute_async(_leave, len(worker_group) > 1)
        default = DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
        patience_s = float(os.environ.get(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, default))
        try:
            ray.get(leaving, timeout=patience_s)
        except ray.exceptions.GetTimeoutError:
            logger.warning("workers have not left their process group within %g s", patience_s)


def _file() -> str:
    session = ray._private.worker._global_node.get_session_dir_path()
    return f"file://{session}/torch-{uuid.uuid4().hex}"  # not Path.as_uri: PyTorch takes %20 for three letters of the name


def _address(worker_group: Any) -> str:
    host, port = worker_group.execute_single(0, get_address_and_port)
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _join(backend: str, rank: int, world_size: int, place: str) -> None:
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    _set_torch_distributed_env_vars()
    _setup_torch_process_group(backend, rank, world_size, place, _TIMEOUT_S)


def _leave(destroy_process_group: bool) -> None:
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group)
