"""Schedules that never come or cannot be read are refused, and none of them hides another from the watch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, NoSchedule

from flows import watch
from flows.deployments import check_schedule
from tasks.errors import InputError

NEVER = "0 0 30 2 *"


@pytest.mark.parametrize("cron", [NEVER, "0 0 31 4,6 *"])
def test_a_cron_that_never_comes_is_refused(cron: str) -> None:
    with pytest.raises(InputError, match=r"--cron is .*, which never comes"):
        check_schedule(cron, "UTC")


def test_a_cron_that_comes_once_in_four_years_is_taken() -> None:
    check_schedule("0 0 29 2 *", "UTC")
    check_schedule(None, "Asia/Tokyo")


@pytest.mark.parametrize(
    "timezone", ["Europe", "x" * 300, "", "../UTC", "posixrules", "Europe/Lodnon"], ids=lambda name: name[:12]
)
def test_what_is_no_time_zone_is_refused_by_its_own_option(timezone: str) -> None:
    with pytest.raises(InputError, match="--timezone is"):
        check_schedule(None, timezone)


class Server:
    """A server with these schedules, which has planned no run of them."""

    def __init__(self, **schedules: Any) -> None:
        self._deployments = [
            SimpleNamespace(
                id=uuid4(), name=name, paused=False, schedules=[DeploymentSchedule(id=uuid4(), schedule=schedule)]
            )
            for name, schedule in schedules.items()
        ]

    def read_deployments(self) -> list[Any]:
        return self._deployments

    def read_flow_runs(self, **only: Any) -> list[Any]:
        return []


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 0.0)


def test_a_schedule_without_a_next_time_is_told_and_hides_no_other(tmp_path: Path) -> None:
    told: list[str] = []
    server: Any = Server(never=CronSchedule(cron=NEVER), none=NoSchedule(), daily=CronSchedule(cron="5 4 * * *"))
    watch.Watch(told.append, tmp_path / "server.log").look(server)
    never, daily = told
    assert "never has a schedule whose next time cannot be computed (failed to find next date)" in never
    assert "daily is due at" in daily


def test_a_log_that_was_removed_silences_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    server: Any = Server(daily=CronSchedule(cron="5 4 * * *"))
    watch.Watch(told.append, tmp_path / "no such folder/server.log").look(server)
    assert len(told) == 1


def test_what_could_not_be_told_is_told_at_the_next_look() -> None:
    told: list[str] = []

    def tell(line: str) -> None:
        if not told:
            told.append("failed")
            raise OSError("the terminal is gone")
        told.append(line)

    server: Any = Server(daily=CronSchedule(cron="5 4 * * *"))
    seen = watch.Watch(tell, None)
    with pytest.raises(OSError, match="terminal"):
        seen.look(server)
    seen.look(server)
    seen.look(server)
    assert len(told) == 2
