"""One training run whose workers are killed at random for minutes: it must end undisturbed, and nothing may leak.

    python -m tests.benchmarks.kills.soak [--minutes 10] [--seed 0] [--json FILE]

Two workers; one of them is killed every 20 to 40 s. What is there is measured before the first kill, a minute after it,
and at the end, while the run still trains. The result must have an undisturbed run's bits, or this ends with an error.
``checks``: for each resource, its growth after the first minute over what is allowed, so at most 1. Of the files that Ray's
processes log to, each process may add some.
"""

import argparse
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.harness import environment, finish
from tests.kills.processes import CONTROLLER, WORKER, kill, kill_tree, titled
from tests.patience import until
from tests.train.conftest import make_run
from tests.train.kills import Command, on_cluster

EVERY_S = (20.0, 40.0)
PAUSE_S = 0.06
"""A step's length, nearly: the run is as long as the soak, and an undisturbed one some tenths of that."""
CHECKPOINTS_S = 5.0
MIB = 2**20
WHEN = ("first", "second", "last")

# Growth that is allowed from the second measurement to the last, and for each process that was started in between.
ALLOWED: dict[str, tuple[float, float]] = {
    "command MiB": (16, 0),
    "raylet MiB": (16, 0.25),
    "gcs MiB": (16, 0.5),
    "controller MiB": (24, 0.25),
    "worker MiB": (24, 0),
    "processes": (4, 0),  # Ray keeps as many idle ones as there are CPUs
    "zombies": (0, 0),
    "storage files": (4, 0),
    "storage MiB": (1, 0),
    "shm files": (0, 0),
    "shm MiB": (1, 0),
    "session files besides logs": (4, 0),
    "session MiB besides logs": (1, 0),
    "logs": (8, 8),  # about 6 of each; processes that come and go between two kills are not seen
    "logs MiB": (1, 0.2),
    "temporary files": (0, 0),
    "object store MiB": (0.5, 0),
}


@dataclass
class Soaked:
    """What happened to the run."""

    kills: int
    seconds: float
    steps: int
    steps_begun: int
    attempts: int
    processes_started: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    where = environment()
    with tempfile.TemporaryDirectory(prefix="soak") as named:
        os.environ["TMPDIR"] = named  # for Ray's session and everything that any process of the cluster leaves lying about
        rows, soaked = soak(Path(named), options.minutes, options.seed)
    checks = {"undisturbed": 1.0} | {str(row["resource"]): over(row, soaked) for row in rows}
    finish(options.json, checks, rows, where | asdict(soaked))
    print(asdict(soaked))


def over(row: dict[str, Any], soaked: Soaked) -> float:
    """Growth over what is allowed; 0 where nothing grew."""
    base, each = ALLOWED[str(row["resource"])]
    grown, allowed = row["last"] - row["second"], base + each * soaked.processes_started
    return max(0.0, grown / allowed if allowed else float(grown > 0) * 2)


def soak(folder: Path, minutes: float, seed: int) -> tuple[list[dict[str, Any]], Soaked]:
    """Measurements of each resource, and what happened."""
    import ray

    from tasks.ray_cluster import connect
    from tasks.ray_config import RayConfig

    connect(RayConfig(num_cpus=4))
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    make = _commands(folder, ray.get_runtime_context().gcs_address, minutes)
    undisturbed, command, rng = make("undisturbed", 0.0), make("soaked", PAUSE_S), random.Random(seed)
    undisturbed_process = undisturbed.start()
    assert undisturbed_process.wait(1200) == 0, undisturbed.said()
    process = command.start()
    try:
        measure = _measure(process, Path(command.out), session)
        until(lambda: command.begun() > 0 and len(titled(WORKER)) == 2, "steps")
        time.sleep(5)
        began, measured, pids = time.monotonic(), [measure()], {p.pid for p in psutil.Process().children(recursive=True)}
        kills, started = 0, set[int]()
        while time.monotonic() - began < 60 * minutes:
            time.sleep(rng.uniform(*EVERY_S))
            assert process.poll() is None, f"ended after {kills} kills: {command.said()}"
            if workers := titled(WORKER):
                kill([rng.choice(workers)])
                kills += 1
            started |= {p.pid for p in psutil.Process().children(recursive=True)} - pids
            if len(measured) == 1 and time.monotonic() - began > 60:
                measured.append(_settled(command, measure))
        measured.append(_settled(command, measure))
        command.hurry()
        assert process.wait(600) == 0, command.said()
    finally:
        kill_tree(process)
    seconds = time.monotonic() - began
    command.require_undisturbed(undisturbed)
    attempts = command.attempts()
    settings = command.config.train
    n_steps, begun = settings.tokens // settings.batch_tokens, sum(len(steps) for steps in attempts)
    rows = [{"resource": name, **{when: m[name] for when, m in zip(WHEN, measured, strict=True)}} for name in ALLOWED]
    ray.shutdown()
    return rows, Soaked(kills, seconds, n_steps, begun, len(attempts), len(started))


def _commands(folder: Path, address: str, minutes: float) -> Callable[[str, float], Command]:
    batch = 32
    settings = {
        "tokens": batch * int(60 * minutes / PAUSE_S),
        "checkpoint_every_tokens": batch * int(CHECKPOINTS_S / PAUSE_S),
        "max_failures": 1000,
        "sae": {"d_sae": 2048},
    }
    config, activations = make_run(folder, workers=2, **settings)
    joined = on_cluster(config, address)
    return lambda name, pause_s: Command(joined, activations, f"{folder}/{name}/sae", folder / f"{name}-points", pause_s)


def _settled(command: Command, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Measure when both workers have taken steps for some seconds since the last kill."""
    for _ in range(2):
        before = command.begun()
        until(lambda before=before: command.begun() > before and len(titled(WORKER)) == 2, "steps")  # type: ignore[misc]
        time.sleep(5)
    found = measure()
    print({name: round(value, 2) for name, value in found.items()}, flush=True)
    return found


def _measure(process: psutil.Popen, storage: Path, session: Path) -> Callable[[], dict[str, float]]:
    import ray

    def measure() -> dict[str, float]:
        family = psutil.Process().children(recursive=True)
        named = {name: [p for p in family if _name(p).startswith(title)] for name, title in TITLES.items()}
        found = {f"{name} MiB": max(map(_resident_mib, processes), default=0.0) for name, processes in named.items()}
        found["command MiB"] = _resident_mib(process)
        found["zombies"] = sum(_status(p) == psutil.STATUS_ZOMBIE for p in family)
        found["processes"] = len(family) - found["zombies"]
        found |= _files("storage", storage) | _files("shm", Path("/dev/shm"), besides=_shared_by_others(family))
        found["temporary files"] = sum(path.is_file() for path in session.parents[1].glob("tmp*/**/*"))
        logs, everything = _files("logs", session / "logs"), _files("session", session)
        found |= {"logs": logs["logs files"], "logs MiB": logs["logs MiB"]}
        for unit in ("files", "MiB"):
            found[f"session {unit} besides logs"] = everything[f"session {unit}"] - logs[f"logs {unit}"]
        used = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
        return found | {"object store MiB": used / MIB}

    return measure


TITLES = {"raylet": "raylet", "gcs": "gcs_server", "controller": CONTROLLER, "worker": WORKER}


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        return Path(process.cmdline()[0]).name if "ray::" not in process.cmdline()[0] else process.cmdline()[0]
    return ""


def _status(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.status())
    return ""


def _resident_mib(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss) / MIB
    return 0.0


def _shared_by_others(family: list[psutil.Process]) -> set[Path]:
    """Shared memory of processes that are not ours."""
    ours, found = {os.getpid(), *(process.pid for process in family)}, set[Path]()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if int(maps.parent.name) not in ours:
                lines = maps.read_text().splitlines()
                found |= {Path(line.split(maxsplit=5)[5]) for line in lines if "/dev/shm/" in line}
    return found


def _files(what: str, folder: Path, besides: Container[Path] = ()) -> dict[str, float]:
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and path not in besides:
                sizes.append(path.stat().st_size)
    return {f"{what} files": float(len(sizes)), f"{what} MiB": sum(sizes) / MIB}


if __name__ == "__main__":
    main()
