"""The cluster that a run starts for itself: nobody else gets in, and signals to the run's group pass it by."""

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from tasks.errors import InputError, SaemillError
from tasks.ray_cluster import _join
from tasks.ray_config import RayConfig
from tasks.ray_local_cluster import _failed, patient, private_folder
from tests.conftest import LOOPBACK, ROOT, free_port, listening_at
from tests.patience import files_of
from tests.turns import kills_a_whole_run


def test_a_machine_too_busy_to_start_ray_is_said_in_a_sentence() -> None:
    def not_there(_: str) -> None:
        raise RuntimeError("not found")

    with pytest.raises(SaemillError, match=r"did not start .* within 0.3 s \(ray\.start_timeout_s\).*same command again"):
        patient(not_there, 0.3)("node")


def test_a_slow_start_is_waited_for() -> None:
    answers = iter([RuntimeError("not found"), RuntimeError("not found"), "there"])

    def soon_there(_: str) -> str:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    assert patient(soon_there, 60)("node") == "there"


def _command(process: psutil.Process) -> str:
    """Empty for one that has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one
        return " ".join(process.cmdline())
    return ""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rays_processes_are_on_loopback_at_nice_0_behind_a_token_and_in_a_private_folder_and_session() -> None:
    @ray.remote(num_cpus=0)
    def niceness() -> int:
        return os.nice(0)

    assert ray.get(niceness.remote()) == os.nice(0)
    children = psutil.Process().children(recursive=True)
    family = [process for process in children if "ray" in _command(process)]
    assert {"raylet", "gcs_server"} <= {process.name() for process in family}
    assert listening_at([psutil.Process(), *family]) <= LOOPBACK
    assert {os.getsid(process.pid) for process in family}.isdisjoint({os.getsid(0)})
    assert any(process.environ().get("RAY_AUTH_TOKEN") for process in family)
    folder = Path(ray._private.worker._global_node.get_temp_dir_path()).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    refused = subprocess.run(
        [sys.executable, "-c", f"import ray; ray._raylet.GcsClient({ray.get_runtime_context().gcs_address!r})"],
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
        | {"RAY_AUTH_MODE": "disabled"},
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr


def test_a_folder_that_somebody_else_made_first_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    usual = Path(private_folder()).parent
    assert usual == tmp_path / f"saemill-{os.getuid()}"
    usual.chmod(0o755)
    other = Path(private_folder()).parent
    usual.rmdir()
    usual.symlink_to(other)
    third = Path(private_folder()).parent
    assert len({usual, other, third}) == 3
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (other, third)} == {0o700}
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "no such folder"))
    with pytest.raises(SaemillError, match="RAY_TMPDIR"):
        private_folder()


@pytest.mark.parametrize("name", ["a#b", "a?b", "a\nb", "ä"])
def test_a_folder_whose_name_is_no_path_of_a_url_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / name))
    with pytest.raises(InputError, match=r"RAY_TMPDIR is .* no # or"):
        private_folder()


def test_a_folder_is_named_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", ".")
    assert private_folder() == str(tmp_path / f"saemill-{os.getuid()}/ray")


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "Make room there"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "Make room there"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes"), "name another folder"),
        (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), "could not be started"),
        (TimeoutError(), "could not be started on this machine (TimeoutError)"),
        (ConnectionError("GCS is away"), "could not be started"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "could not be started"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_only_errors_of_files_are_told_as_such(error: OSError, said: str) -> None:
    assert said in str(_failed(error, "/tmp/x"))


FAILING = """
import psutil
from ray._private import services
from tasks.errors import SaemillError
from tasks.ray_local_cluster import start

def never(*given):
    raise RuntimeError("the node is not there")

services.get_node = never
for _ in range(2):
    try:
        start(2, num_cpus=1)
    except SaemillError as error:
        print(error)
print([child.name() for child in psutil.Process().children(recursive=True)])
"""


@pytest.mark.ray
def test_a_start_that_failed_leaves_nothing_running() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], cwd=ROOT, capture_output=True, text=True)
    *said, left = done.stdout.splitlines()
    assert ["did not start on this machine" in line for line in said] == [True, True], done.stderr
    assert left == "[]"


@contextlib.contextmanager
def run_in_a_group_of_its_own(storage: Path) -> Iterator[psutil.Popen]:
    """A toy run of two workers that would train for long, once it has written a checkpoint; Ray's folder has an odd name."""
    settings = ["train.workers=2", "train.tokens=8_000_000", "train.checkpoint_every_tokens=30_000", "ray.num_cpus=4"]
    command = [sys.executable, "-m", "flows.cli", "run", "configs/toy.yaml", "--storage", str(storage)]
    folder = tempfile.mkdtemp(dir="/tmp", prefix="s %2F")  # short, as sockets have room for few letters
    with open(storage.parent / "log", "wb") as log:
        process = psutil.Popen(
            command + [part for setting in settings for part in ("--set", setting)],
            cwd=ROOT,
            env=os.environ | {"RAY_TMPDIR": folder},  # where the workers meet
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not files_of(storage, "saes/*/checkpoints/*.safetensors"):
            assert process.poll() is None, (storage.parent / "log").read_text()
            time.sleep(0.3)
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait()
        shutil.rmtree(folder)


@kills_a_whole_run
@pytest.mark.ray
def test_sigterm_to_the_group_of_a_run_is_obeyed_with_a_checkpoint_and_leaves_nothing_running(tmp_path: Path) -> None:
    with run_in_a_group_of_its_own(tmp_path / "runs") as process:
        family = process.children(recursive=True)
        assert sum("RayTrainWorker" in _command(child) for child in family) == 2
        assert listening_at([process, *family]) <= LOOPBACK
        checkpoints = set((tmp_path / "runs").glob("saes/*/checkpoints/step-*"))
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(100) == 143
        _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    said = (tmp_path / "log").read_text()
    assert said.splitlines()[-1].startswith("saemill: Stopped. The same command goes on from here")
    assert set((tmp_path / "runs").glob("saes/*/checkpoints/step-*")) > checkpoints, "one is taken before it ends"


@pytest.mark.ray
def test_kill_9_leaves_no_process_of_ray_running() -> None:
    start = "import ray; from tasks.ray_cluster import connect; from tasks.ray_config import RayConfig"
    code = f"{start}; connect(RayConfig(num_cpus=1)); print('there', flush=True); input()"
    with psutil.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"there\n"
        family = process.children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
    assert len(family) >= 4
    assert alive == []


@pytest.mark.parametrize(
    "address, sentence",
    [
        ("127.0.0.1:FREE", r"ray\.address is '127.*' but no Ray cluster answers there \(.*refused\)"),
        ("127.0.0.1:9", r"no Ray cluster answers there"),
        ("127.0.0.1:99999", r"no Ray cluster answers there"),
        ("no-such-host.invalid:6379", r"no Ray cluster answers there"),
        ("ray://127.0.0.1:FREE", r"no Ray cluster answers there"),
        ("local", r"Leave it empty"),
    ],
)
def test_an_address_without_a_cluster_is_refused_soon(address: str, sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=sentence) as refused:
        _join(address.replace("FREE", str(free_port())))  # not in the case's name, which all processes of a run must share
    assert "\n" not in str(refused.value)
    assert time.monotonic() - began < 60  # Ray's own answer takes 170 s


def test_start_timeouts_are_finite_and_positive() -> None:
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="start_timeout_s"):
            RayConfig(start_timeout_s=wrong)
