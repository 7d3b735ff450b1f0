"""Nights that a real Prefect server starts by itself, on a corpus that grows, under a clock that is moved from day to day.

The server, what serves the deployments, and the runs see the moved clock (https://github.com/wolfcw/libfaketime); monotonic
time goes on as it is. Minutes long, so only in `make test-all`.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows.automations import FAILED, MISSED, VERDICT
from tests.flows.conftest import Served
from tests.nights.hook import Hook, listening_hook
from tests.nights.test_night import A_NIGHT, DICTIONARY

FAKETIME = importlib.util.find_spec("libfaketime")
pytestmark = [
    pytest.mark.prefect,
    pytest.mark.ray,
    pytest.mark.skipif(not os.environ.get("SAEMILL_TEST_ALL"), reason="minutes long: SAEMILL_TEST_ALL=1 runs it"),
    pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed"),
]
SETTINGS: dict[str, Any] = {
    "name": "toy",
    "sae": {"d_sae": 48, "k": 4},
    "train": {
        "tokens": 25_600,
        "batch_tokens": 128,
        "lanes": 4,
        "workers": 1,
        "precision": "fp32",
        "lr": 0.01,
        "init_from": "toy@champion",
    },
    "score": {"baseline_tokens": 256},
    "registry": {"name": "toy"},
    "gates": {"auto_promote": True},
}
TIMEOUT_S = 900.0


@dataclass
class Clock:
    """How far the clock of the server is moved."""

    file: Path

    def move_to(self, when: datetime) -> None:
        seconds = (when - datetime.now(UTC)).total_seconds()
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{seconds:+.0f}s\n")
        beside.replace(self.file)


@dataclass
class Place:
    """A server under a moved clock, its corpus and its webhook."""

    served: Served
    clock: Clock
    hook: Hook
    rows: Path
    n: int = 0

    def grow(self) -> None:
        self.n += 1
        rng = np.random.default_rng(self.n)
        codes = rng.exponential(size=(A_NIGHT, 40)) * (rng.random((A_NIGHT, 40)) < 0.1)
        there = [np.load(self.rows)] if self.rows.exists() else []
        np.save(self.rows, np.concatenate([*there, (codes @ DICTIONARY + 3).astype(np.float32)]))

    def runs(self) -> list[dict[str, Any]]:
        """Runs of the nightly that the scheduler made and that have ended, in order."""
        ended = ("COMPLETED", "FAILED", "CRASHED")
        found = [run for run in self.served.runs("nightly") if run["auto_scheduled"] and run["state_type"] in ended]
        return sorted(found, key=lambda run: str(run["expected_start_time"]))

    def night(self, when: datetime) -> dict[str, Any]:
        """Move the clock to a minute before a night, and wait until its run has ended."""
        there = len(self.runs())
        self.clock.move_to(when - timedelta(seconds=40))
        self.served.wait(lambda: len(self.runs()) > there, f"the night of {when}", TIMEOUT_S)
        return self.runs()[-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    assert FAKETIME is not None
    assert FAKETIME.origin is not None
    folder = tmp_path_factory.mktemp("clock")
    library = Path(FAKETIME.origin).with_name("vendor") / "libfaketime/src/libfaketime.so.1"
    clock = Clock(folder / "clock")
    clock.move_to(DAYS[0] - timedelta(hours=1))
    with listening_hook() as hook, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock.file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }.items():
            patch.setenv(name, value)
        settings = folder / "nightly.yaml"
        source = {"source": str(folder / "rows.npy"), "eval_fraction": 0.3}
        notify = {"webhook": hook.url, "secret": "s3cr3t"}
        settings.write_text(yaml.safe_dump({**SETTINGS, "activations": source, "notify": notify}))
        served = Served(folder)
        found = Place(served, clock, hook, folder / "rows.npy")
        found.grow()
        served.start("--nightly", str(settings), "--cron", "17 2 * * *", "--timezone", "UTC")
        try:
            yield found
        finally:
            served.stop()


DAYS = [datetime(2027, 3, day, 2, 17, tzinfo=UTC) for day in range(1, 10)]


def until(ready: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(1)
    return ready()


def test_three_nights_are_started_by_the_server_and_each_is_told(place: Place) -> None:
    for day in range(3):
        if day:
            place.grow()
        run = place.night(DAYS[day])
        assert run["state_name"] == "Completed", run["state"]["message"]
        assert run["created_by"]["type"] == "SCHEDULE"
        assert run["expected_start_time"].startswith(f"2027-03-{day + 1:02}T02:17:00")
    names = place.hook.names
    assert names.count("saemill.version.registered") == 3
    assert names.count("saemill.gate.verdict") == 2
    assert names.count("saemill.night.finished") == 3
    assert all("X-Saemill-Signature" in headers for headers, _ in place.hook.requests)
    artifacts = place.served.call("POST", "artifacts/filter", {"artifacts": {"key": {"any_": ["night"]}}})
    assert len(artifacts) == 3
    assert (place.served.storage / "reports/toy-nights/index.html").is_file()
    records = sorted((place.served.storage / "registry/toy/nights/done").iterdir())
    assert len(records) == 3


def test_events_of_a_night_are_on_the_server(place: Place) -> None:
    sent = {"filter": {"event": {"prefix": ["saemill."]}, "occurred": {"since": "2027-02-01T00:00:00Z"}}}
    found = place.served.call("POST", "events/filter", sent)["events"]
    assert {event["event"] for event in found} >= {"saemill.version.registered", "saemill.gate.verdict"}
    assert {event["resource"]["prefect.resource.id"] for event in found} == {"saemill.registry.toy"}


def test_a_night_on_which_nothing_is_new_takes_seconds(place: Place) -> None:
    run = place.night(DAYS[3])
    assert run["state_name"] == "NothingNew"


def test_a_failed_night_is_told_once(place: Place) -> None:
    whole = place.rows.read_bytes()
    place.rows.write_bytes(b"no matrix")
    place.hook.requests.clear()
    run = place.night(DAYS[4])
    place.rows.write_bytes(whole)
    assert run["state_type"] == "FAILED"
    assert until(lambda: bool(place.hook.names)), place.hook.names
    assert place.hook.names == ["saemill.night.failed"], "once"
    assert "X-Saemill-Signature" in place.hook.requests[0][0]
    assert "rows.npy" in place.hook.events[0]["text"]


def test_a_missed_night_is_left_out_and_told(place: Place) -> None:
    place.hook.requests.clear()
    late = DAYS[6] + timedelta(hours=10)  # that of the day before was missed as well
    there = len(place.runs())
    place.clock.move_to(late)
    place.served.wait(lambda: len(place.runs()) > there, "the late run", TIMEOUT_S)
    assert place.runs()[-1]["state_name"] == "SkippedStale"
    assert until(lambda: "saemill.night.missed" in place.hook.names)


def test_the_three_automations_are_there_once(place: Place) -> None:
    found = [automation["name"] for automation in place.served.call("POST", "automations/filter", {})]
    assert sorted(name for name in found if name.startswith("saemill")) == sorted([FAILED, MISSED, VERDICT])
