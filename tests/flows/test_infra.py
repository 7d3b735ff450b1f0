"""What can be held about infra/ without containers."""

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.server.schemas.actions import DeploymentCreate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import BaseModel

from flows.commands.serve import serve
from flows.config import load_config
from flows.configurations import offer
from flows.defaults import CRON, TIMEZONE
from flows.deploy import deploy, main
from flows.deployments import offered
from flows.form import NightlyForm, PipelineForm, SweepForm
from tasks.errors import InputError
from tests.flows.conftest import Served, away_from_loops
from tests.flows.recording_api import RecordingApi, recording
from tests.sampled import every_case

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
FORMS = {"pipeline": PipelineForm, "sweep": SweepForm, "nightly": NightlyForm}
THERE = [f"{name}/{name}" for name in FORMS]
WHERE = {"storage": "s3://saemill/runs", "overrides": "ray.address=auto"}
PASSWORDS = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN")
HIDDEN = "hunter2-nobody-may-read-this"
PREFECT = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *inspect*) case " $THERE " in *" $3 "*) exit 0;; esac; echo not found; exit 1;; esac
"""


def load(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text())


def run_deploy_sh(api: RecordingApi, folder: Path, *pools: str) -> tuple[list[str], list[str]]:
    """What infra/deploy.sh prints, and what it asks of Prefect's command line where there are these work pools."""
    (folder / "prefect").write_text(PREFECT)
    (folder / "prefect").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CALLS": str(folder / "calls"),
        "THERE": " ".join(pools),
        "PREFECT_API_URL": api.url,
        "PREFECT_HOME": str(folder / "home"),
        "DO_NOT_TRACK": "1",
    }
    done = subprocess.run(
        ["sh", "infra/deploy.sh"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.split(), (folder / "calls").read_text().splitlines()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What infra/deploy.sh sends to a server that has no deployment yet, by name; its environment has passwords."""
    with recording() as api, pytest.MonkeyPatch.context() as patch:
        for name in PASSWORDS:
            patch.setenv(name, HIDDEN)
        run_deploy_sh(api, tmp_path_factory.mktemp("deployed"), "saemill")
    return api.created


def test_no_password_of_the_environment_is_stored_in_a_deployment(deployed: dict[str, dict[str, Any]]) -> None:
    assert set(deployed) == set(FORMS)
    assert HIDDEN not in json.dumps(deployed)


@pytest.mark.parametrize("name", FORMS)
def test_prefect_knows_every_key_that_it_is_sent(name: str, deployed: dict[str, dict[str, Any]]) -> None:
    given = deployed[name]
    parsed = DeploymentCreate.model_validate(given)
    assert unknown_keys(given, parsed) == set()
    assert parsed.concurrency_options is not None
    assert unknown_keys(given["concurrency_options"], parsed.concurrency_options) == set()
    for schedule, known in zip(given["schedules"], parsed.schedules, strict=True):
        assert unknown_keys(schedule, known) == set()
        assert unknown_keys(schedule["schedule"], known.schedule) == set()


def unknown_keys(given: Any, model: BaseModel) -> set[str]:
    """Keys that the model dropped: Prefect may ignore a misspelt setting without a word."""
    kept = model.model_dump(by_alias=True)
    return {key for key in given if key not in kept}


def test_the_deployments_are_those_of_serve_with_the_storage_of_the_cluster(
    deployed: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = {name: parameter.default for name, parameter in inspect.signature(serve).parameters.items()}
    names = offer([options["config"], options["nightly"]])
    with recording() as api, temporary_settings({PREFECT_API_URL: api.url}):
        for deployment in offered(*names, {}, options["cron"], options["timezone"]):
            away_from_loops(deployment.apply)  # as Prefect's runner does
    assert list(deployed) == list(api.created) == list(FORMS)
    for name, given in deployed.items():
        same = api.created[name]
        assert given["work_pool_name"] == "saemill"
        assert given["pull_steps"] == [], "the code is in the worker's image; nothing is cloned"
        assert given["parameters"] == {**same["parameters"], **WHERE}
        own = {"flow_id", "work_pool_name", "pull_steps", "parameters"}
        assert {key: value for key, value in given.items() if key not in own} == {
            key: value for key, value in same.items() if key not in own
        }
    nightly = deployed["nightly"]
    assert [(each["schedule"]["cron"], each["schedule"]["timezone"]) for each in nightly["schedules"]] == [(CRON, TIMEZONE)]
    assert nightly["schedules"][0]["active"] is not False
    assert nightly["parameters"]["configuration"] == "nightly"


@pytest.mark.parametrize("name", FORMS)
def test_the_deployments_start_flows_that_exist_with_settings_that_are_valid(
    name: str, deployed: dict[str, dict[str, Any]]
) -> None:
    given = deployed[name]
    module, _, function = given["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), function)
    assert flow.name == given["name"] == name
    assert validate(given["parameters"], parameter_schema(flow).model_dump_for_openapi()) == []
    config = FORMS[name].filled({}, given["parameters"]).settings()
    assert config.ray.address == "auto"
    expected = load_config(ROOT / f"configs/{given['parameters']['configuration']}.yaml")
    assert config.sae == expected.sae
    assert config.train == expected.train
    assert config.text.max_tokens == expected.text.max_tokens, "a nightly of a sample would find no shard again"


def renamed(storage: Path) -> list[RunnerDeployment]:
    """The deployments on the textbook example, beside those that are served there, with a nightly every ten seconds."""
    deployments = offered("toy", "toy", {"storage": str(storage)}, CRON, TIMEZONE)
    for deployment in deployments:
        deployment.name = f"deployed-{deployment.name}"
    often = IntervalSchedule(interval=timedelta(seconds=10))
    deployments[-1].schedules = [DeploymentScheduleCreate(schedule=often, active=True)]
    return deployments


@pytest.mark.prefect
@pytest.mark.ray
@pytest.mark.skipif(
    not every_case(), reason="takes minutes; with make test-all. test_scheduler.py waits for serve's own runs"
)
def test_prefect_deploys_them_and_a_worker_makes_the_run_that_the_scheduler_planned(served: Served, tmp_path: Path) -> None:
    told = tmp_path / "log"
    environment = served.environment | {"PREFECT_HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = subprocess.run(["sh", "infra/deploy.sh"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert script.returncode == 0, script.stderr
    assert not set(FORMS) & set(script.stdout.split()), "serve's own are there"

    def deploy_renamed(*again: str) -> list[str]:
        with temporary_settings({PREFECT_API_URL: f"{served.url}/api", PREFECT_API_AUTH_STRING: served.password}):
            return away_from_loops(lambda: deploy(renamed(served.storage), "saemill", again))

    assert deploy_renamed() == [f"deployed-{name}" for name in FORMS]
    found = served.deployment("deployed-nightly")
    assert found["work_pool_name"] == "saemill"
    assert found["entrypoint"] == "flows.nightly.nightly"
    assert found["pull_steps"] == []
    edited = f"deployments/{found['id']}/schedules/{found['schedules'][0]['id']}"
    served.call("PATCH", edited, {"schedule": {"interval": 12}})
    assert deploy_renamed() == []
    (schedule,) = served.deployment("deployed-nightly")["schedules"]
    assert schedule["schedule"]["interval"] == 12, "a worker's next start leaves what was edited"
    assert deploy_renamed("deployed-nightly") == ["deployed-nightly"]
    (schedule,) = served.deployment("deployed-nightly")["schedules"]
    assert schedule["schedule"]["interval"] == 10, "what is named is put back"
    with open(told, "ab") as log:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "saemill", "--limit", "1"]
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        served.wait(lambda: bool(served.scheduled_runs("deployed-nightly", "COMPLETED")), "a run of the worker's")
    finally:
        served.call("PATCH", f"deployments/{found['id']}", {"paused": True})
        worker.send_signal(signal.SIGINT)
        worker.wait(60)
    assert "Traceback" not in told.read_text()


@pytest.mark.parametrize("there", ["", "saemill nightly/nightly", "saemill pipeline/pipeline sweep/sweep nightly/nightly"])
def test_only_what_the_server_does_not_have_is_deployed(there: str, tmp_path: Path) -> None:
    pools = [name for name in there.split() if name == "saemill"]
    with recording(there.split()) as api:
        printed, calls = run_deploy_sh(api, tmp_path, *pools)
    missing = [name for name in FORMS if f"{name}/{name}" not in there.split()]
    assert list(api.created) == missing
    assert printed == missing
    assert api.changed == []
    assert len(api.automations) == 3
    created = [] if pools else ["work-pool create saemill --type process"]
    assert [call for call in calls if "inspect" not in call] == created


def test_a_deployment_that_is_named_is_put_back_with_its_schedule() -> None:
    with recording(THERE) as api, temporary_settings({PREFECT_API_URL: api.url}):
        deployments = offered("demo", "nightly", WHERE, CRON, TIMEZONE)
        assert away_from_loops(lambda: deploy(deployments, "saemill", ["nightly"])) == ["nightly"]
    assert api.created == {}
    (change,) = api.changed
    assert change["work_pool_name"] == "saemill"
    assert change["parameters"] == {"configuration": "nightly", **WHERE}
    assert [each["schedule"]["cron"] for each in change["schedules"]] == [CRON]


def test_a_name_that_no_deployment_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"no deployment 'nigthly'\. Take one of pipeline, sweep, nightly"):
        deploy(offered("demo", "nightly", {}, CRON, TIMEZONE), "saemill", ["nigthly"])


def test_settings_that_are_wrong_are_refused_before_anything_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # deploying sets them; this has them put back
    with (
        recording() as api,
        temporary_settings({PREFECT_API_URL: api.url}),
        pytest.raises(InputError, match=r"ray\.adress"),
    ):
        main(overrides=["ray.adress=auto"])
    assert api.created == {}


def test_without_a_server_nothing_is_deployed() -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(InputError, match="PREFECT_API_URL is not set"),
    ):
        main()


def test_workers_deploy_nothing_again_and_make_one_run_at_a_time() -> None:
    (container,) = load("k8s/worker.yaml")["spec"]["template"]["spec"]["containers"]
    for command in (load("compose.yaml")["services"]["worker"]["command"][-1], container["args"][-1]):
        assert "&& sh infra/deploy.sh &&" in command
        assert "--all" not in command
        assert command.endswith("prefect worker start --pool saemill --limit 1")


def test_compose_names_only_what_it_defines_and_publishes_on_loopback_only() -> None:
    compose = load("compose.yaml")
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"]), name
        assert {config["source"] for config in service.get("configs", [])} <= set(compose["configs"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "image" in service, name


def test_prefect_and_ray_ask_for_passwords_that_the_user_chooses() -> None:
    services = load("compose.yaml")["services"]
    assert services["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_PASSWORD:?")
    for name in ("ray-head", "ray-worker", "worker"):
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_TOKEN:?")
        assert environment["AWS_SECRET_ACCESS_KEY"].startswith("${S3_SECRET:?")
    assert services["worker"]["environment"]["PREFECT_API_AUTH_STRING"].startswith("${PREFECT_PASSWORD:?")
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    for pod in (INFRA / "k8s").glob("*.yaml"):
        assert "name: RAY_AUTH_MODE, value: token" in pod.read_text(), pod


def test_the_image_copies_what_exists() -> None:
    lines = (INFRA / "docker/Dockerfile").read_text().splitlines()
    copied = [part for line in lines if line.startswith("COPY") for part in line.split()[2:-1]]
    assert copied
    assert [part for part in copied if not (ROOT / part).exists()] == []


def test_kubernetes_runs_the_pinned_version_of_ray() -> None:
    cluster = load("k8s/raycluster.yaml")
    assert cluster["apiVersion"] == "ray.io/v1"
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["spec"]["rayVersion"] == pinned[1]


def test_the_worker_selects_its_own_pods() -> None:
    spec = load("k8s/worker.yaml")["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
