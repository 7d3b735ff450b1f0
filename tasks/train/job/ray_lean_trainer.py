"""Ray Train without the processes that a job of ours has no use for.

Each is a Python process of its own, which imports Ray Data and takes seconds of a slow CPU to start (Zen 3, Ray 2.60).
"""

from typing import Any

from ray.train.v2._internal.execution.failure_handling import create_failure_policy
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy, create_scaling_policy
from ray.train.v2._internal.util import ObjectRefWrapper
from ray.train.v2.api import data_parallel_trainer
from typing_extensions import override

_WITHOUT = {
    # It outlives a killed controller for ever if there is no dashboard. Ray itself frees what the job has reserved when the
    # process that started it ends, and ``supervise`` does before.
    "PlacementGroupCleanerCallback",
    "DatasetsCallback",  # it starts a manager of Ray Data's datasets, also where there are none; rows come from our reader
}


class LeanTrainer(data_parallel_trainer.DataParallelTrainer):  # type: ignore[misc] # Ray is not typed
    """A training as Ray Train describes it, to be run by a controller of one's own.

    Args:
        work: what each worker calls.
        can_grow: whether machines may be asked for; not where this run has started its cluster on its machine.
        settings: what ``DataParallelTrainer`` takes.
    """

    def __init__(self, work: Any, *, can_grow: bool, **settings: Any) -> None:
        super().__init__(work, **settings)
        self._can_grow = can_grow

    def for_controller(self) -> dict[str, Any]:
        """What a controller is made with: the same that ``fit`` makes one with (Ray 2.60)."""
        return {
            "train_fn_ref": ObjectRefWrapper(self._get_train_func()),
            "scaling_policy": create_scaling_policy(self.scaling_config) if self._can_grow else _policy(self.scaling_config),
            "failure_policy": create_failure_policy(self.run_config.failure_config),
            "train_run_context": self.train_run_context,
            "callbacks": self._create_default_callbacks(),
        }

    @override
    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in _WITHOUT]


def _policy(scaling_config: Any) -> Any:
    policy = ElasticScalingPolicy if scaling_config.elasticity_enabled else _Fixed
    return policy(scaling_config=scaling_config)


class _Fixed(FixedScalingPolicy):  # type: ignore[misc] # Ray is not typed
    @override
    def _send_resource_request(self) -> None:
        pass

    @override
    def _maybe_send_resource_request(self) -> None:
        pass

    @override
    def _cancel_resource_request(self) -> None:
        pass
