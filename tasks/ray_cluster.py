"""The one way to a Ray cluster: started or joined once per process, leaving signals as they were."""

import logging
import os
import signal
import socket
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tasks.errors import InputError, SaemillError
from tasks.ray_config import RayConfig
from tasks.ray_local_cluster import on_loopback_where_it_must_be, start

T = TypeVar("T")
# A machine's answer takes as long as a worker's start, which on a busy one may be half a minute.
_ANSWER_S = 300.0
_LISTENER_S = 10.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under an ancestor `uv run`, Ray would ship the environment to each worker: https://github.com/ray-project/ray/issues/59342
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Silences a FutureWarning in each worker on machines without GPUs, and takes the announced behaviour.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # When one shard's error ends a stage, the other shards' results are dropped on purpose.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


def connect(config: RayConfig) -> None:
    """Start a local cluster or join ``config.address``; does nothing when this process is connected already.

    The connection lives as long as the process, so that stages share it: starting one takes about 6 s.

    Raises:
        InputError: no cluster answers at ``config.address``.
        SaemillError: a local cluster is not there within ``config.start_timeout_s``.
    """
    if ray.is_initialized():
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _signal_handlers_kept():
        if config.address is None:
            _start_local(config)
        else:
            _join(config.address)


def cluster_cpus() -> float:
    """CPUs of the connected cluster."""
    return float(ray.cluster_resources().get("CPU", 0))


def cluster_gpus() -> float:
    """GPUs of the connected cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def cluster_machines() -> list[tuple[float, float]]:
    """CPUs and GPUs of each machine of the connected cluster."""
    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(float(room.get("CPU", 0)), float(room.get("GPU", 0))) for room in rooms]


def ask_nodes(question: Callable[[bool], T]) -> list[T]:
    """What each machine of the cluster that has CPUs or GPUs for work answers; it is told whether it has GPUs.

    Raises:
        InputError: there is no such machine at present.
        SaemillError: one does not answer.
    """
    rooms = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    asked = {node: room.get("GPU", 0) > 0 for node, room in rooms.items() if room.get("CPU", 0) or room.get("GPU", 0)}
    if not asked:
        raise InputError(
            "The Ray cluster has no machine with CPUs or GPUs at present, so what they multiply fast is unknown. Start "
            "one, or name model.dtype and train.precision."
        )
    remote = ray.remote(num_cpus=0)(question)  # answered at once, however busy the machine is
    answers = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(has_gpus)
        for node, has_gpus in asked.items()
    ]
    try:
        found: list[T] = ray.get(answers, timeout=_ANSWER_S)
    except RayError as error:
        raise SaemillError(
            f"A machine of the Ray cluster does not say what it multiplies fast ({type(error).__name__}). Give the same "
            "command again, or name model.dtype and train.precision."
        ) from error
    return found


def _start_local(config: RayConfig) -> None:
    # Ray says at each start that it guards local clusters with a token; nobody needs to act on that.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    start(
        config.start_timeout_s,
        num_cpus=config.num_cpus,
        object_store_memory=config.object_store_mb * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        configure_logging=True,
        job_config=_on_own_path(),
    )


def _on_own_path() -> JobConfig:
    """Has workers look for modules where ours lie, and neither in the working folder nor beside the user's script.

    Ray puts these two before all else on the path of workers. There, a ``tasks.py`` of the user's would be taken for our
    package, of which is all that workers are given to do. Ray leaves both out where a job brings a working folder.
    """
    root = str(Path(__file__).parents[1])
    installed = root == sysconfig.get_path("purelib")  # on every worker's path already, and not to come before Python's own
    found = JobConfig(_py_driver_sys_path=[] if installed else [root])
    found._runtime_env_has_working_dir = lambda: True
    return found


def _join(address: str) -> None:
    _require_listener(address)
    # A client's job is the server's, which has a path of its own.
    job_config = None if address.startswith("ray://") else _on_own_path()
    try:
        with on_loopback_where_it_must_be(address):
            ray.init(address=address, log_to_driver=False, logging_level="warning", job_config=job_config)
    except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
        # Ray puts hints and tracebacks below the first line.
        raise InputError(f"ray.address is {address!r} but no Ray cluster lets us in: {_first_line(error)}") from None


def _require_listener(address: str) -> None:
    """Ray itself tries an address at which nobody listens for minutes."""
    if address == "local":
        raise InputError("ray.address is 'local'. Leave it empty for a cluster that this run starts for itself.")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # 'auto', or what Ray explains itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTENER_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"ray.address is {address!r} but no Ray cluster answers there ({_first_line(error)}). Correct it, start one "
            "there, or leave it empty for one that this run starts for itself."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Keep SIGTERM's and SIGINT's handlers through ``ray.init``, which takes SIGTERM over, and the C++ handlers below it.

    Otherwise a Prefect run that is cancelled ends as crashed: https://github.com/ray-project/ray/issues/17308. Restoring
    them afterwards is not enough: a start takes seconds, and Prefect asks whose handler it is when it cancels.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; Ray leaves them alone in other threads
        return
    setter = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = setter
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))
