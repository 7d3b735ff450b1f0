"""What can be held about infra/ without containers."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from pydantic import BaseModel

from tasks.config import parse_config
from tests.flows.conftest import Served

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


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


def test_the_deployments_start_flows_that_exist_with_settings_that_are_valid() -> None:
    for deployment in load("prefect.yaml")["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        assert getattr(importlib.import_module(module), name).name == deployment["name"]
        config = parse_config(deployment["parameters"]["config"])
        assert config.ray.address == "auto"


@pytest.mark.prefect
def test_prefect_deploys_them(served: Served, tmp_path: Path) -> None:
    given = load("prefect.yaml")
    for deployment in given["deployments"]:
        deployment["name"] = f"deployed-{deployment['name']}"  # beside those that are served there
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(given))
    environment = {**served.environment, "PREFECT_HOME": str(tmp_path)}
    for command in (
        ["work-pool", "create", "saemill", "--type", "process", "--overwrite"],
        ["--no-prompt", "deploy", "--prefect-file", str(file), "--all"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    nightly = served.deployment("deployed-nightly")
    assert nightly["work_pool_name"] == "saemill"
    assert nightly["entrypoint"] == "flows.nightly.nightly"
    assert nightly["pull_steps"] == []
    assert nightly["schedules"][0]["schedule"]["timezone"] == "Europe/London"


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
