"""Ray Train without the processes that a job of ours has no use for.

Each is a Python process of its own, which imports Ray Data and takes seconds of a slow CPU to start (Zen 3, Ray 2.60).
"""

from typing import Any
from unittest import mock

from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy
from ray.train.v2.api import data_parallel_trainer

_WITHOUT = {
    # It outlives a killed controller for ever if there is no dashboard. Ray itself frees what the job has reserved when the
    # process that started it ends, and ``supervise`` does before.
    "PlacementGroupCleanerCallback",
    "DatasetsCallback",  # it starts a manager of Ray Data's datasets, also where there are none; rows come from our reader
}


class LeanTrainer(data_parallel_trainer.DataParallelTrainer):  # type: ignore[misc] # Ray is not typed
    """For a cluster that others use, too."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in _WITHOUT]


class LeanTrainerOfItsOwnCluster(LeanTrainer):
    """For a cluster that this run has started on its machine and that cannot grow: nobody is asked for more machines."""

    def fit(self) -> Any:  # noqa: D102
        with mock.patch.object(data_parallel_trainer, "create_scaling_policy", _policy):
            return super().fit()


def _policy(scaling_config: Any) -> Any:
    policy = ElasticScalingPolicy if scaling_config.elasticity_enabled else _Fixed
    return policy(scaling_config=scaling_config)


class _Fixed(FixedScalingPolicy):  # type: ignore[misc] # Ray is not typed
    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass
