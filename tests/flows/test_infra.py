"""What can be held about infra/ without containers."""

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import BaseModel

from flows.config import load_config
from flows.deployments import DEFAULT_CRON, ONE_AT_A_TIME, offered
from flows.form import NightlyForm, PipelineForm, SweepForm
from tests.flows.conftest import Served
from tests.sampled import every_case

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
FORMS = {"pipeline": PipelineForm, "sweep": SweepForm, "nightly": NightlyForm}


def load(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text())


def unknown_keys(given: Any, model: BaseModel) -> set[str]:
    """Keys that the model dropped: Prefect ignores a misspelt setting without a word."""
    kept = model.model_dump(by_alias=True)
    return {key for key in given if key not in kept}


def test_prefect_knows_every_key_of_prefect_yaml() -> None:
    given = load("prefect.yaml")
    model = PrefectYamlModel.model_validate(given)
    assert unknown_keys(given, model) == {"definitions"}, "a place for YAML anchors only"
    for deployment, parsed in zip(given["deployments"], model.deployments, strict=True):
        assert unknown_keys(deployment, parsed) == set()
        assert parsed.work_pool is not None
        assert unknown_keys(deployment["work_pool"], parsed.work_pool) == set()
        assert isinstance(parsed.concurrency_limit, BaseModel)
        assert unknown_keys(deployment["concurrency_limit"], parsed.concurrency_limit) == set()


def test_the_deployments_are_those_of_serve_with_the_storage_of_the_cluster() -> None:
    served = {deployment.name: deployment for deployment in offered("demo", "nightly", None, DEFAULT_CRON, "Europe/London")}
    deployed = load("prefect.yaml")["deployments"]
    assert [deployment["name"] for deployment in deployed] == list(served)
    for given in deployed:
        same = served[given["name"]]
        assert given["entrypoint"] == same.entrypoint
        assert given["description"] == same.description
        assert given["parameters"] == {"storage": "s3://saemill/runs", "overrides": "ray.address=auto", **same.parameters}
        assert given["enforce_parameter_schema"] == same.enforce_parameter_schema
        limit = ConcurrencyLimitConfig.model_validate(given["concurrency_limit"])
        assert (limit.limit, limit.collision_strategy) == (ONE_AT_A_TIME.limit, ONE_AT_A_TIME.collision_strategy)
        times = [(s["cron"], s["timezone"], s["active"]) for s in given.get("schedules", [])]
        assert times == [(s.schedule.cron, s.schedule.timezone, s.active) for s in same.schedules or []]


@pytest.mark.parametrize("given", load("prefect.yaml")["deployments"], ids=lambda given: given["name"])
def test_the_deployments_start_flows_that_exist_with_settings_that_are_valid(given: dict[str, Any]) -> None:
    module, _, name = given["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert flow.name == given["name"]
    assert validate(given["parameters"], parameter_schema(flow).model_dump_for_openapi()) == []
    config = FORMS[name].filled({}, given["parameters"]).settings()
    assert config.ray.address == "auto"
    expected = load_config(ROOT / f"configs/{given['parameters']['configuration']}.yaml")
    assert config.sae == expected.sae
    assert config.train == expected.train
    assert config.text.max_tokens == expected.text.max_tokens, "a nightly of a sample would find no shard again"


@pytest.mark.prefect
@pytest.mark.ray
@pytest.mark.skipif(
    not every_case(), reason="takes minutes; with make test-all. test_scheduler.py waits for serve's own runs"
)
def test_prefect_deploys_them_and_a_worker_makes_the_run_that_the_scheduler_planned(served: Served, tmp_path: Path) -> None:
    given = load("prefect.yaml")
    for deployment in given["deployments"]:
        deployment["name"] = f"deployed-{deployment['name']}"  # beside those that are served there
    nightly = given["deployments"][-1]
    nightly["parameters"] = {"configuration": "toy", "storage": str(served.storage)}
    nightly["schedules"] = [{"interval": 10, "slug": "nightly", "active": True}]
    file, told = tmp_path / "prefect.yaml", tmp_path / "log"
    file.write_text(yaml.safe_dump(given))
    environment = served.environment | {"PREFECT_HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "2"}

    def prefect(*command: str) -> "subprocess.Popen[bytes]":
        with open(told, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    script = tmp_path / "deploy.sh"
    script.write_text((INFRA / "deploy.sh").read_text().replace("infra/prefect.yaml", str(file)))
    names = " ".join(deployment["name"] for deployment in given["deployments"])
    script.write_text(
        script.read_text().replace("pipeline sweep nightly", names).replace('"$name/$name"', '"${name#*-}/$name"')
    )

    def deploy() -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with open(told, "ab") as log:
            subprocess.run(
                ["sh", str(script)], cwd=ROOT, env=environment | {"PATH": path}, stdout=log, stderr=log, check=True
            )

    deploy()
    found = served.deployment("deployed-nightly")
    edited = f"deployments/{found['id']}/schedules/{found['schedules'][0]['id']}"
    served.call("PATCH", edited, {"schedule": {"interval": 12}})
    deploy()
    (schedule,) = served.deployment("deployed-nightly")["schedules"]
    assert schedule["schedule"]["interval"] == 12, "a worker's next start leaves what was edited"
    assert found["work_pool_name"] == "saemill"
    assert found["entrypoint"] == "flows.nightly.nightly"
    assert found["pull_steps"] == []
    worker = prefect("worker", "start", "--pool", "saemill", "--limit", "1")
    try:
        served.wait(lambda: bool(served.scheduled_runs("deployed-nightly", "COMPLETED")), "a run of the worker's")
    finally:
        served.call("PATCH", f"deployments/{found['id']}", {"paused": True})
        worker.send_signal(signal.SIGINT)
        worker.wait(60)
    assert "Traceback" not in told.read_text()


PREFECT = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *inspect*) case " $THERE " in *" $3 "*) exit 0;; esac; echo not found; exit 1;; esac
"""


@pytest.mark.parametrize("there", ["", "saemill nightly/nightly", "saemill pipeline/pipeline sweep/sweep nightly/nightly"])
def test_only_what_the_server_does_not_have_is_deployed(there: str, tmp_path: Path) -> None:
    (tmp_path / "prefect").write_text(PREFECT)
    (tmp_path / "prefect").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "THERE": there}
    subprocess.run(["sh", "infra/deploy.sh"], cwd=ROOT, env=environment, check=True)
    calls = [call for call in (tmp_path / "calls").read_text().splitlines() if "inspect" not in call]
    names = [deployment["name"] for deployment in load("prefect.yaml")["deployments"]]
    missing = [name for name in names if f"{name}/{name}" not in there.split()]
    created = [] if "saemill" in there else ["work-pool create saemill --type process"]
    assert calls == created + [f"--no-prompt deploy --prefect-file infra/prefect.yaml --name {name}" for name in missing]


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
    assert services["worker"]["environment"]["PREFECT_API_AUTH_STRING"].startswith("${PREFECT_PASSWORD:?")
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
