"""The actor of a training: Ray Train's controller, from which whoever started it hears how far it is.

Ray Train would have the two in processes of their own, and a third in which workers wait for each other at checkpoints.
Each takes 3.5 s of CPU to start before it does anything (Zen 3, Ray 2.60), and again where workers are started anew.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar
from unittest import mock

import ray
import ray.train
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import state, worker_group
from typing_extensions import override

from tasks.errors import SaemillError
from tasks.progress import Progress
from tasks.storage.arrow import arrow_filesystem
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS
from tasks.train.job.ray_lean_trainer import LeanTrainer
from tasks.train.ray_process_group import ProcessGroupConfig
from tasks.train.run_settings import RunSettings

F = TypeVar("F", bound=Callable[..., Any])
CONCURRENCY = {"news": 64, "barrier": 100_000}
"""Calls at a time, each group with a thread of its own: the controller's is not free while workers start."""
_HEALTH_S = 0.5
"""Between two questions to each worker whether it has ended; Ray's 2 s are lost at the end of each training."""
_RESIZE_S = 30.0
"""Between two looks at whether there is room for more workers, which begin from the last checkpoint."""


def _in(group: str) -> Callable[[F], F]:
    """Have a method answered in the thread of a group of ``CONCURRENCY``."""
    method: Callable[[F], F] = ray.method(concurrency_group=group)
    return method


class TrainingJob(TrainController):  # type: ignore[misc] # Ray is not typed
    """Runs the workers, and carries news from them to whoever watches."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}
        self._is_new = False
        self._refusal: SaemillError | None = None
        self._warnings: list[str] = []
        self._stopping = False
        self._barrier = _plain_barrier()

    async def work(self, todo: list[Any], config: RunSettings, out: str) -> dict[str, Any]:
        """The first worker's result.

        Args:
            todo: holds a reference to what each worker calls, and what it calls it with.
            config: how many workers of which size, and how often they are restarted.
            out: where Ray Train keeps its own files and checkpoints.
        """
        me = ray.get_runtime_context().current_actor
        _be_the_barrier(me)
        # Ray Train does all the time what Ray warns of here. The variable that Ray has for that would be passed on to
        # workers, and none of the processes that Ray has at hand has it.
        ray._private.worker.blocking_get_inside_async_warned = True
        # One process less where no node can go.
        without_watcher = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"} if config.ray.address is None else {}
        with mock.patch.dict(os.environ, without_watcher):
            super().__init__(**_trainer({"todo": todo, "job": me}, config, out).for_controller())
        if "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S" not in os.environ:
            self._health_check_interval_s = _HEALTH_S
        await self.run()
        result = self.get_result()
        if result.error:
            raise result.error
        found: dict[str, Any] = result.return_value
        return found

    @_in("news")
    def tell(self, progress: Progress, rank: int = 0) -> None:
        """How far a worker is."""
        self._progress[rank], self._is_new = progress, True

    @_in("news")
    def refuse(self, error: SaemillError) -> None:
        """A worker has met what no restart would cure."""
        self._refusal = error

    @_in("news")
    def warn(self, message: str) -> None:
        """Have a warning logged where the run was started."""
        self._warnings.append(message)

    @_in("news")
    def stop(self) -> None:
        """Have the workers write a checkpoint and end."""
        self._stopping = True

    @_in("news")
    def stopping(self) -> bool:
        """Whether the workers are to end."""
        return self._stopping

    @_in("news")
    def news(self) -> tuple[list[Progress], SaemillError | None, list[str]]:
        """The latest progress of all workers and the warnings, once, and the error that no restart would cure."""
        progress = [self._progress[rank] for rank in sorted(self._progress)] if self._is_new else []
        self._is_new = False
        warnings, self._warnings = self._warnings, []
        return progress, self._refusal, warnings

    @_in("barrier")
    async def broadcast_from_rank_zero(self, *given: Any, **named: Any) -> Any:
        """Where workers wait for each other."""
        return await self._barrier.broadcast_from_rank_zero(*given, **named)

    @_in("barrier")
    async def set_required_ranks(self, ranks: Any) -> bool:
        """For whom they wait."""
        return bool(await self._barrier.set_required_ranks(ranks))

    @_in("barrier")
    async def begin(self, settings: dict[str, Any]) -> None:
        """From now on other workers meet here; those of before are gone."""
        self._barrier = _plain_barrier(**settings)


_plain_barrier = SynchronizationActor.__ray_metadata__.modified_class


def _be_the_barrier(me: Any) -> None:
    """Have workers of this process's controller wait for each other here, and not in an actor that is started for that."""

    class Here:
        @classmethod
        def options(cls, **_: object) -> type["Here"]:
            return cls

        @classmethod
        def remote(cls, **settings: object) -> Any:
            ray.get(me.begin.remote(settings))
            return me

    worker_group.SynchronizationActor = Here
    state._shutdown_sync_actor = lambda barrier: None


def _do(part: dict[str, Any]) -> dict[str, Any]:
    """In a worker: its part of the work."""
    work, task = ray.get(part["todo"][0])
    done: dict[str, Any] = work({**task, "job": part["job"]})
    return done


def _trainer(part: dict[str, Any], config: RunSettings, out: str) -> LeanTrainer:
    settings, is_own = config.train, config.ray.address is None
    path, filesystem = arrow_filesystem(open_store(out))
    return LeanTrainer(
        _do,
        can_grow=not is_own,
        train_loop_config=part,
        backend_config=ProcessGroupConfig("nccl" if settings.on_gpus else "gloo", is_one_machine=is_own),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers if settings.min_workers is None else (settings.min_workers, settings.workers),
            elastic_resize_monitor_interval_s=_RESIZE_S,
            use_gpu=settings.on_gpus,
            resources_per_worker={"CPU": settings.cpus_per_worker} | ({"GPU": 1} if settings.on_gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=settings.max_failures,
                # Workers that die while they start count here; it takes a minute to find that there is no room for them.
                controller_failure_limit=max(3, settings.max_failures),
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=settings.keep_checkpoints),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            callbacks=[_NoLongGoodbye()],
        ),
    )


class _NoLongGoodbye(ray.train.UserCallback):  # type: ignore[misc] # Ray is not typed
    """After a worker was lost the others are killed, without 30 s in which to take leave of it."""

    @override
    def after_exception(self, run_context: object, worker_exceptions: object) -> None:
        os.environ["TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"] = "1"  # read by Ray Train's controller, where this runs
