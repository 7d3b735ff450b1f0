"""`saemill serve`, with a real Prefect server, a real browser and real runs of the toy configuration."""

import json
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page

from flows import password
from flows.cli import main
from flows.config import parse_config
from flows.configurations import absolute
from tests.conftest import ROOT
from tests.flows.conftest import TOY, Served
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.prefect


@pytest.mark.browser
def test_the_deployments_and_the_nightly_schedule_show(served: Served, page: Page) -> None:
    served.enter(page)
    page.goto(f"{served.url}/deployments")
    page.get_by_role("link", name="pipeline").first.wait_for()
    page.get_by_role("link", name="sweep").first.wait_for()
    page.get_by_role("link", name="nightly").first.wait_for()
    page.goto(f"{served.url}/deployments/deployment/{served.deployment('nightly')['id']}")
    page.get_by_text("At 02:17 AM").first.wait_for()
    (schedule,) = served.deployment("nightly")["schedules"]
    assert schedule["active"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("17 2 * * *", "Europe/London")
    assert served.deployment("pipeline")["schedules"] == []


def test_a_nightly_run_that_should_have_started_long_ago_is_skipped(served: Served) -> None:
    due = datetime.now(UTC) - timedelta(hours=30)
    run = served.start_run("nightly", {}, state_details={"scheduled_time": due.isoformat()})
    state = served.wait_until_ended(run)
    assert (state["type"], state["name"]) == ("COMPLETED", "SkippedStale")


def test_a_run_from_the_command_line_is_recorded_where_a_server_is_named(served: Served, tmp_path: Path) -> None:
    environment = {**served.environment, "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-m", "flows.cli", "harvest", TOY, "--json", "--storage", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["activations"]).parent == tmp_path / "runs/activations"
    assert found["sae"] is None
    recorded = served.call("POST", "flow_runs/filter", {"sort": "END_TIME_DESC", "limit": 1})[0]
    assert (recorded["state"]["type"], recorded["parameters"]["until"]) == ("COMPLETED", "harvest")
    assert recorded["deployment_id"] is None


@pytest.mark.ray
def test_a_sweep_from_the_command_line_is_recorded_with_its_table_and_a_link_to_its_page(
    served: Served, tmp_path: Path
) -> None:
    environment = {**served.environment, "PREFECT_HOME": str(tmp_path / "prefect")}
    settings = ["--set", "sweep.seeds=[0, 1]", "--set", "train.tokens=800", "--storage", str(tmp_path / "runs")]
    command = [sys.executable, "-m", "flows.cli", "sweep", TOY, "--json", *settings]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    recorded = served.call("POST", "flow_runs/filter", {"sort": "END_TIME_DESC", "limit": 1})[0]
    assert recorded["state"]["type"] == "COMPLETED"
    told = {a["key"]: a for a in served.call("POST", "artifacts/filter", {}) if a["flow_run_id"] == recorded["id"]}
    assert f"{found['report']}/index.html" in told["sweep-page"]["data"]
    assert "seed 1" in told["sweep"]["data"]
    steps = served.call("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [recorded["id"]]}}})
    assert {step["name"] for step in steps} == {"harvest", "train", "compare"}


def test_only_one_run_is_made_at_a_time(served: Served) -> None:
    for name in ("pipeline", "sweep", "nightly"):
        deployment = served.deployment(name)
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_schedules_edited_in_the_ui_survive_a_restart_and_stopping_leaves_nothing(served: Served) -> None:
    nightly = served.deployment("nightly")
    path = f"deployments/{nightly['id']}/schedules"
    edited = {"cron": "5 4 * * *", "timezone": "Asia/Tokyo"}
    served.call("PATCH", f"{path}/{nightly['schedules'][0]['id']}", {"schedule": edited, "active": False})
    served.call("POST", path, [{"schedule": {"cron": "0 12 * * 0", "timezone": "UTC"}, "active": True}])
    assert served.stop(signal.SIGINT) == []
    assert served.process.wait() == 0
    served.start()
    kept = {s["schedule"]["cron"]: s["active"] for s in served.deployment("nightly")["schedules"]}
    assert kept == {"5 4 * * *": False, "0 12 * * 0": True}


def test_the_servers_end_ends_serve_in_a_sentence(tmp_path: Path) -> None:
    own = Served(tmp_path)
    own.start()
    (server,) = (child for child in own.process.children() if "flows.guarded_server" in child.cmdline())
    server.kill()
    assert own.process.wait(PATIENCE_S) == 1
    sentence = own.log().splitlines()[-1]
    assert sentence.startswith("saemill: The Prefect server ended with code -9")
    assert f"{tmp_path}/prefect/server.log" in sentence
    assert "Traceback" not in own.log()


def test_a_taken_port_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", password.CLIENT, "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # `serve` sets them; this has them put back
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stopped:
        main(["serve", "--config", TOY, "--nightly", TOY, "--port", str(taken.getsockname()[1])])
    assert stopped.value.code == 2
    assert "is taken" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_paths_are_made_absolute_for_runs_that_start_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    for given, expected in {
        "corpus": str(tmp_path / "corpus"),
        "corpus/*.parquet": str(tmp_path / "corpus/*.parquet"),
        "corpus/19[0-9]?.txt": str(tmp_path / "corpus/19[0-9]?.txt"),
        "*.txt": str(tmp_path / "*.txt"),
        "roneneldan/TinyStories": "roneneldan/TinyStories",
        "s3://bucket/x.parquet": "s3://bucket/x.parquet",
    }.items():
        config = absolute(parse_config({"storage": "runs", "text": {"source": given}}))
        assert config.text.source == expected
        assert config.storage == str(tmp_path / "runs")
