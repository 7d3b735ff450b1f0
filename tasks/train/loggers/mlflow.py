"""MLflow."""

import os
import time
from pathlib import Path

from tasks.train.curve import CurveRow
from tasks.train.loggers.facts import RunFacts, figures

_EXPERIMENT = "saemill"
_TAG = "saemill.sae"


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

        now, values = int(time.time() * 1000), figures(row, waiting)
        new = [Metric(name, value, now, row.step) for name, value in values.items() if row.step > self._last.get(name, -1)]
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
