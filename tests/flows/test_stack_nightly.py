"""A night on the services of infra/compose.yaml: the server's clock starts it, the worker runs it, Ray's nodes do the work,
SeaweedFS keeps the results.

Everything is real but the containers: infra/stack starts the same services from their packages.
"""

import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.stack import passwords, processes
from tests.conftest import LOOPBACK, ROOT, listening_at
from tests.patience import PATIENCE_S, until
from tests.sampled import every_case

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.ray,
    pytest.mark.s3,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not every_case(), reason="starts eight services, which takes minutes; with make test-all"),
]
SERVICES = {"postgres", "seaweedfs", "ray-head", "ray-worker-1", "ray-worker-2", "prefect", "worker"}
SMALL = ["text.max_tokens=20_000", "harvest.shard_tokens=4096", "sae.d_sae=256", "sae.k=8", "train.tokens=40_000"]
SMALL += ["score.splice_tokens=1024", "score.baseline_tokens=1024"]
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Stack:
    """The services in a folder, and the API of their Prefect server."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "infra.stack", name, "--dir", str(self.root)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)

    def environment(self) -> dict[str, str]:
        """What a shell has once it was told by ``env``."""
        script = f"{self.command('env').stdout}\nexec env -0"
        plain = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.root),
        }
        said = subprocess.run(["sh", "-c", script], env=plain, capture_output=True, text=True, check=True).stdout
        return dict(line.split("=", 1) for line in said.split("\0") if line)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        environment = self.environment()
        password = base64.b64encode(environment["PREFECT_API_AUTH_STRING"].encode()).decode()
        request = urllib.request.Request(
            f"{environment['PREFECT_API_URL']}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": f"Basic {password}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def nightly(self) -> dict[str, Any]:
        found = self.call("POST", "deployments/filter", {"deployments": {"name": {"any_": ["nightly"]}}})
        (deployment,) = found
        return dict(deployment)

    def runs(self) -> list[dict[str, Any]]:
        """The nightly's runs that the scheduler made and that have begun."""
        only = {"deployments": {"name": {"any_": ["nightly"]}}}
        found = self.call("POST", "flow_runs/filter", only)
        return [run for run in found if run["auto_scheduled"] and run["state_type"] != "SCHEDULED"]

    def log(self, run: str) -> str:
        lines: list[str] = []
        while True:
            body = {"logs": {"flow_run_id": {"any_": [run]}}, "offset": len(lines), "sort": "TIMESTAMP_ASC"}
            found = self.call("POST", "logs/filter", body)
            lines += [line["message"] for line in found]
            if not found:
                return "\n".join(lines)

    def tail(self) -> str:
        """The ends of all services' logs, for what goes wrong."""
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-800:]}" for log in (self.root / "logs").iterdir())


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="st-") as folder:
        found = Stack(Path(folder))
        try:
            up = found.command("up")
            assert up.returncode == 0, f"{up.stderr}\n{found.tail()}"
            until(lambda: len(found.call("POST", "deployments/filter", {})) == 3, "the worker deployed", found.tail)
            yield found
        finally:
            found.command("down")
            assert processes.running(found.root) == {}


@pytest.fixture(scope="module")
def night(stack: Stack) -> dict[str, Any]:
    """The run that the scheduler made within a minute or two, once it has ended, and which services worked for it."""
    small = [part for setting in SMALL for part in ("--set", setting)]
    deployed = subprocess.run(
        ["sh", "infra/deploy.sh", "nightly", *small], cwd=ROOT, env=stack.environment(), capture_output=True, text=True
    )
    assert deployed.stdout.split() == ["nightly"], deployed.stderr
    deployment = stack.nightly()
    (schedule,) = deployment["schedules"]
    soon = datetime.now(UTC) + timedelta(seconds=75)
    cron = {"cron": f"{soon.minute} {soon.hour} * * *", "timezone": "UTC"}
    stack.call("PATCH", f"deployments/{deployment['id']}/schedules/{schedule['id']}", {"schedule": cron})
    worked: set[str] = set()
    deadline = time.monotonic() + 2 * PATIENCE_S
    while not (ended := [run for run in stack.runs() if run["state_type"] in ENDS]):
        assert time.monotonic() < deadline, stack.tail()
        worked |= at_work(stack.root)
        time.sleep(1)
    return {**ended[0], "worked": worked, "asked_at": soon.replace(second=0, microsecond=0)}


def at_work(root: Path) -> set[str]:
    """The services that have a process of Ray's that harvests or trains: those that only watch need no CPU of a node's."""
    found = set()
    for service, members in processes.running(root).items():
        for process in members:
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(("ray::Harvester", "ray::RayTrainWorker")):
                    found.add(service)
    return found


def test_a_night_is_begun_by_the_clock_made_by_the_worker_and_worked_by_rays_nodes(
    stack: Stack, night: dict[str, Any]
) -> None:
    assert night["state_type"] == "COMPLETED", f"{night['state']}\n{stack.log(night['id'])}\n{stack.tail()}"
    assert datetime.fromisoformat(night["expected_start_time"]) == night["asked_at"]
    assert night["work_pool_name"] == "saemill"
    assert night["worked"], "none was seen"
    assert night["worked"] <= {"ray-worker-1", "ray-worker-2"}, "the head and the worker have no CPUs for work"
    assert processes.running(stack.root).keys() == SERVICES


def test_its_results_lie_on_the_object_store(stack: Stack, night: dict[str, Any]) -> None:
    code = """
import json, sys
import s3fs
found = s3fs.S3FileSystem().find("saemill/runs")
print(json.dumps([key.removeprefix("saemill/runs/").split("/") for key in found]))
"""
    keys = json.loads(subprocess.check_output([sys.executable, "-c", code], env=stack.environment(), cwd=ROOT))
    assert {key[0] for key in keys} >= {"tokens", "activations", "shards", "saes", "scores", "reports"}
    for stage, name in (("saes", "sae.safetensors"), ("scores", "latents.parquet"), ("reports", "index.html")):
        assert [key for key in keys if key[0] == stage and key[-1] == name], stage
    (sae,) = {key[1] for key in keys if key[0] == "saes"}
    asked = [sys.executable, "-m", "flows.cli", "encode", f"s3://saemill/runs/saes/{sae}", "--help"]
    assert subprocess.run(asked, env=stack.environment(), cwd=ROOT, capture_output=True).returncode == 0


def test_what_prefect_has_lies_in_postgres(stack: Stack, night: dict[str, Any]) -> None:
    assert not list((stack.root / "prefect").rglob("*.db")), "SQLite"
    assert "prefect.db" not in (stack.root / "logs/prefect").read_text()
    code = f"""
import asyncio, asyncpg
async def runs():
    said = dict(host="127.0.0.1", port={json.loads((stack.root / "ports.json").read_text())["5432"]}, user="prefect")
    password = open({str(passwords.file(stack.root, "POSTGRES_PASSWORD"))!r}).read().strip()
    connection = await asyncpg.connect(**said, password=password, database="prefect")
    print(*[str(row["id"]) for row in await connection.fetch("select id from flow_run where state_type = 'COMPLETED'")])
asyncio.run(runs())
"""
    assert night["id"] in subprocess.check_output([sys.executable, "-c", code], text=True).split()


def test_no_password_stands_in_parameters_logs_command_lines_or_results(stack: Stack, night: dict[str, Any]) -> None:
    secrets = passwords.chosen(stack.root).values()
    told = json.dumps([stack.nightly(), stack.call("GET", f"flow_runs/{night['id']}"), stack.log(night["id"])])
    told += json.dumps(stack.call("POST", "artifacts/filter", {})) + json.dumps(stack.call("POST", "work_pools/filter", {}))
    assert night["id"] in told
    assert [secret for secret in secrets if secret in told] == []
    for members in processes.running(stack.root).values():
        for process in members:
            with contextlib.suppress(psutil.Error):
                assert not [secret for secret in secrets if secret in " ".join(process.cmdline())], process
    kept = [stack.root / "secrets", stack.root / "seaweedfs/etc"]
    for file in stack.root.rglob("*"):
        if file.is_file() and not any(file.is_relative_to(folder) for folder in kept):
            content = file.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], file


def test_nobody_listens_beyond_loopback_and_ray_lets_nobody_in_without_the_token(stack: Stack) -> None:
    everybody = [process for members in processes.running(stack.root).values() for process in members]
    assert listening_at(everybody) <= LOOPBACK
    environment = stack.environment()
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        environment.pop(name)
    code = "import os, ray; ray._raylet.GcsClient(os.environ['RAY_ADDRESS'])"
    refused = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr


def test_a_service_that_was_killed_is_started_again_and_the_others_stay(stack: Stack, night: dict[str, Any]) -> None:
    before = {name: processes.first(stack.root, name) for name in SERVICES}
    for name in ("prefect", "seaweedfs"):
        killed = before[name]
        assert killed is not None
        killed.kill()
    assert stack.command("status").returncode == 1
    up = stack.command("up")
    assert up.returncode == 0, up.stderr
    after = {name: processes.first(stack.root, name) for name in SERVICES}
    assert {name for name in SERVICES if before[name] != after[name]} == {"prefect", "seaweedfs"}
    assert stack.command("status").returncode == 0
    assert stack.call("GET", f"flow_runs/{night['id']}")["state_type"] == "COMPLETED"
