"""A Prefect run that is cancelled while it trains: it leaves a checkpoint of where it was, and goes on from there."""

import contextlib
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import LOOPBACK, listening_at
from tests.flows.conftest import Served
from tests.patience import PATIENCE_S, files_of
from tests.turns import kills_a_whole_run

pytestmark = [pytest.mark.prefect, pytest.mark.ray]


PARAMETERS = {"tokens": 8_000_000, "overrides": "name=cancelled\ntrain.checkpoint_every_tokens=30_000"}
"""Of a run that would train for long."""


def checkpoints(served: Served) -> dict[int, float]:
    """Steps of the checkpoints that are whole on disk, and when each was written."""
    found = {}
    for path in files_of(served.storage, "saes/cancelled-*/checkpoints/step-*/state*.json"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile, as later ones are there
            found[int(path.parent.name.removeprefix("step-"))] = path.stat().st_mtime
    return found


def cancel(served: Served, run: str) -> list[psutil.Process]:
    """Cancel a run as the UI does, and wait until it has ended; the processes of it that are still there."""
    (engine,) = (child for child in served.process.children() if "prefect.engine" in " ".join(child.cmdline()))
    family = [engine, *engine.children(recursive=True)]
    assert any("RayTrainWorker" in " ".join(process.cmdline()) for process in family)
    assert any("raylet" in process.name() for process in family)
    assert listening_at([served.process, *family]) <= LOOPBACK
    served.call("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert served.wait_until_ended(run)["type"] == "CANCELLED"
    assert "CRASHED" not in served.history(run)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    return alive


@kills_a_whole_run
def test_a_run_cancelled_while_it_trains_leaves_no_process_and_goes_on_from_the_step_where_it_was(served: Served) -> None:
    first = served.start_run("pipeline", PARAMETERS)
    served.wait(lambda: bool(checkpoints(served)), "training's first checkpoint")
    every = min(checkpoints(served))
    assert cancel(served, first) == []
    stopped_at, began = max(checkpoints(served)), time.time()
    assert stopped_at % every != 0, "only a checkpoint that was taken because of the cancellation is at no multiple"

    again = served.start_run("pipeline", PARAMETERS)
    served.wait(lambda: max(checkpoints(served)) > stopped_at, "the same flow's next checkpoint")
    assert cancel(served, again) == []
    later = [step for step, written in checkpoints(served).items() if written > began]
    assert later
    assert min(later) > stopped_at
    assert not any(Path(served.storage).glob("saes/cancelled-*/manifest.json"))
