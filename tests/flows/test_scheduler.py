"""Runs that the server makes by itself: Prefect's scheduler once failed every minute while its UI said that all was well."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from prefect.client.orchestration import SyncPrefectClient

from flows import watch
from flows.form import NightlyForm
from flows.stages import stage_names
from tests.flows.conftest import Served

pytestmark = pytest.mark.prefect
BROKEN = """\
22:20:04.001 | ERROR   | prefect.server.api.server - Encountered exception in request:
sqlite3.OperationalError: disk I/O error
22:20:35.600 | ERROR   | docket.dependencies - ↩ [   624ms] schedule_deployments(){schedule_deployments}
Traceback (most recent call last):
  File "prefect/server/services/scheduler.py", line 273, in schedule_deployments
    inserted_runs = await models.deployments._insert_scheduled_flow_runs(
sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement; please supply a bulk_dml decorated function
22:20:36.000 | INFO    | prefect.server.services.scheduler - Scheduled 0 runs.
22:20:37.000 | ERROR   | prefect.server.events.stream - away
"""
"""What the server wrote with SQLAlchemy 2.1.9, shortened, between errors of other parts."""


def edit_in_v2(page: Page, cron: str) -> None:
    """Change the first schedule's time through the dialog of the UI that '/' leads to."""
    page.get_by_role("button", name="Open menu").last.click()
    page.get_by_role("menuitem", name="Edit").click()
    page.locator("input[name='schedule.cron']").fill(cron)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Deployment schedule updated").wait_for()


def edit_in_v1(page: Page, cron: str) -> None:
    """The same in the older UI."""
    page.locator(".deployment-schedule__menu").last.click()
    page.get_by_text("Edit", exact=True).last.click()
    written = page.get_by_role("dialog").locator("input[type=text]").last
    expect(written).to_have_value(
        re.compile(r"\S+( \S+){4}")
    )  # else what is typed is overwritten by the schedule that it loads
    written.fill(cron)
    expect(written).to_have_value(cron)
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    page.get_by_role("dialog").wait_for(state="hidden")


UIS = {"v2": ("/v2/deployments", edit_in_v2), "v1": ("/deployments", edit_in_v1)}


def edited(served: Served, page: Page, ui: str, cron: str) -> None:
    """Edit nightly's schedule by clicks, and wait until the server has planned its runs."""
    path, edit = UIS[ui]
    served.enter(page)
    page.goto(f"{served.url}{path}/deployment/{served.deployment('nightly')['id']}")
    page.get_by_text("Schedules").first.wait_for()
    edit(page, cron)
    at_once = 180.0  # as the dialog has closed
    served.wait(
        lambda: served.deployment("nightly")["schedules"][0]["schedule"]["cron"] == cron, "the edited schedule", at_once
    )
    served.wait(lambda: bool(served.scheduled_runs("nightly", "SCHEDULED")), "what the scheduler plans")


@pytest.fixture(scope="module")
def scheduled(served: Served, chromium: Browser) -> Iterator[dict[str, Any]]:
    """A run that the scheduler made, and that has ended, after nightly was set to every minute in the UI."""
    ended = [run["id"] for run in served.runs("nightly")]
    page = chromium.new_page(viewport={"width": 1300, "height": 1400})
    edited(served, page, "v2", "* * * * *")
    page.close()

    def made() -> list[dict[str, Any]]:
        return [run for run in served.scheduled_runs("nightly", "COMPLETED") if run["id"] not in ended]

    try:
        served.wait(lambda: bool(made()), "a run that the scheduler made")
        yield made()[0]
    finally:
        (schedule,) = served.deployment("nightly")["schedules"]
        back = {"schedule": {"cron": "17 2 * * *", "timezone": "Europe/London"}, "parameters": {}}
        served.call("PATCH", f"deployments/{served.deployment('nightly')['id']}/schedules/{schedule['id']}", back)


@pytest.mark.browser
@pytest.mark.ray
def test_the_scheduler_makes_runs_by_itself_which_complete(served: Served, scheduled: dict[str, Any]) -> None:
    assert scheduled["auto_scheduled"]
    assert scheduled["created_by"]["type"] == "SCHEDULE"
    assert scheduled["state_name"] == "Completed", "it has to have been run, not skipped"
    assert any(served.storage.glob("reports/toy-*/manifest.json"))


@pytest.mark.browser
@pytest.mark.ray
def test_the_run_after_an_edit_in_the_ui_has_the_old_settings(served: Served, scheduled: dict[str, Any]) -> None:
    assert scheduled["name"] == "toy.parquet l1 16 k32"
    stored = served.deployment("nightly")["parameters"]
    assert NightlyForm.filled(scheduled["parameters"], stored) == NightlyForm.filled({}, stored)

    def steps() -> set[str]:
        found = served.call("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [scheduled["id"]]}}})
        return {step["name"] for step in found}

    # The server is told of a step's name by an event, which may come after the run's end.
    wanted = {name for name in stage_names() if name != "tokenize"}  # of activations of the user's own
    served.wait(lambda: steps() == wanted, "the steps of the run")


@pytest.mark.browser
def test_an_edit_in_the_older_ui_plans_runs_with_the_old_settings(served: Served, page: Page) -> None:
    stored = served.deployment("nightly")["parameters"]
    edited(served, page, "v1", "17 3 * * *")
    planned = served.scheduled_runs("nightly", "SCHEDULED")
    assert planned
    for run in planned:
        assert NightlyForm.filled(run["parameters"], stored) == NightlyForm.filled({}, stored)
    edited(served, page, "v1", "17 2 * * *")


def test_a_schedule_whose_next_run_is_not_planned_is_told_once_with_the_cause(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 0.0)
    log = tmp_path / "server.log"
    log.write_text(BROKEN)
    told: list[str] = []
    seen = watch.Watch(told.append, log)
    nightly = served.deployment("nightly")
    due = datetime.now(UTC) + timedelta(days=20)
    yearly = {"schedule": {"cron": f"5 4 {due.day} {due.month} *", "timezone": "UTC"}, "active": True}
    (schedule,) = served.call("POST", f"deployments/{nightly['id']}/schedules", [yearly])

    def planned() -> list[str]:
        of_schedule = (run for run in served.runs("nightly") if (run["created_by"] or {}).get("id") == schedule["id"])
        return [run["id"] for run in of_schedule]

    try:
        served.wait(lambda: bool(planned()), "the run of a new schedule")
        with SyncPrefectClient(f"{served.url}/api", auth_string=served.password) as client:
            seen.look(client)
            assert told == [], "all is planned"
            for run in planned():
                served.call("DELETE", f"flow_runs/{run}")
            seen.look(client)
            seen.look(client)
    finally:
        served.call("DELETE", f"deployments/{nightly['id']}/schedules/{schedule['id']}")
    (line,) = told
    assert f"nightly is due at {due:%Y-%m-%d} 04:05 UTC" in line
    assert "Its last error: sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement" in line
    assert str(log) in line


def test_a_log_without_an_error_of_the_scheduler_names_none(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(BROKEN[: BROKEN.index("22:20:35")])
    assert watch.scheduler_error(log) is None
