"""Points at which a process of a harvest kills itself with SIGKILL, in the midst of the code under test.

``python -m tests.harvest.kill_points ARGUMENTS`` is the command line with its points armed; Ray's workers arm theirs through
the job's setup hook. A point strikes once, in the first process that comes by while a file of its name lies in the folder:
renaming that file decides which. What is computed is written down there too, so that a test can count it.
"""

import builtins
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "SAEMILL_KILL_POINTS"
IN_ACTOR = ("forward", "encode", "upload", "commit", "committed")
SLOW_S = 4.0
IN_DRIVER = ("tokens", "manifest")


def environment(folder: Path) -> dict[str, str]:
    """Variables with which a command's own process and Ray's workers are armed."""
    hook = {"worker_process_setup_hook": "tests.harvest.kill_points.arm", "env_vars": {FOLDER: str(folder)}}
    return {FOLDER: str(folder), "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": hook})}


def strike(point: str) -> None:
    """End this process if the point is armed and nobody else was struck."""
    folder = Path(os.environ[FOLDER])
    try:
        os.rename(folder / point, folder / f"{point}.struck-{os.getpid()}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def curse(shard: str) -> None:
    """Fail whenever the shard comes by that a file names: ``poison`` kills the process, ``fault`` raises."""
    folder = Path(os.environ[FOLDER])
    if armed("poison") and (folder / "poison").read_text() == shard:
        os.kill(os.getpid(), signal.SIGKILL)
    if armed("fault") and (folder / "fault").read_text() == shard:
        raise ArithmeticError("this shard's numbers do not add up")


def armed(point: str) -> bool:
    return Path(os.environ[FOLDER], point).exists()


def arm() -> None:
    """Wrap the functions at a worker's points; each still does what it does."""
    import tasks.activations.writer as writer
    import tasks.harvest.capture as capture
    import tasks.harvest.pool.actor as actor
    import tasks.storage.local as local
    import tasks.storage.s3 as s3

    after(capture, "capture", "forward")  # one batch of the shard is through the model
    after(writer, "_table", "encode")  # the table is made, the Parquet file is not
    record(actor)
    hinder(actor.Harvester)
    local.open = opened  # type: ignore[attr-defined]
    halve_http_bodies()
    for store in (local.LocalStore, s3.S3Store):
        around_commit(store)


def arm_command() -> None:
    """Wrap the functions at the points of the process that conducts."""
    import tasks.harvest.ray_harvest
    import tasks.text.tokenize

    before(tasks.harvest.ray_harvest, "write_manifest", "manifest")
    before(tasks.text.tokenize, "write_manifest", "tokens")


def after(module: Any, name: str, point: str) -> None:
    real = getattr(module, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        strike(point)
        return found

    setattr(module, name, wrapped)


def before(module: Any, name: str, point: str) -> None:
    real = getattr(module, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        strike(point)
        return real(*arguments, **named)

    setattr(module, name, wrapped)


def record(actor: Any) -> None:
    """Write down where and when the forward pass of a shard begins."""
    import ray

    real = actor.forward

    def begun(subject: Any, config: Any, token_ids: Any, count: Any) -> Any:
        (shard,) = count.args
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
        line = json.dumps({"shard": shard.name, "began": time.time(), "node": node}) + "\n"
        with open(Path(os.environ[FOLDER], "computed.jsonl"), "a") as log:
            log.write(line)  # one write of less than a page, so that lines of several processes do not mix
        return real(subject, config, token_ids, count)

    actor.forward = begun


def hinder(harvester: Any) -> None:
    """Strike, or slow down, a shard whose first batch is through the model."""
    real = harvester._count

    def counted(self: Any, shard: Any, tokens: int) -> None:
        if shard.name not in self._through:
            curse(shard.name)
        hurry = time.monotonic() + SLOW_S
        while armed("slow") and time.monotonic() < hurry:
            time.sleep(0.05)
        real(self, shard, tokens)

    harvester._count = counted


def opened(path: Any, mode: str = "r", *arguments: Any) -> Any:
    """The files that a LocalStore writes: of rows, half are written before the point strikes."""
    file = builtins.open(path, mode, *arguments)  # noqa: SIM115 - for the caller to close
    return _Halved(file) if "w" in mode and armed("upload") else file


class _Halved:
    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> "_Halved":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        strike("upload")
        return half + int(self._file.write(data[half:]))


def halve_http_bodies() -> None:
    """Of what is PUT on S3 the point lets half of the first piece of a body go out."""
    from aiohttp import http_writer

    real: Callable[..., Any] = http_writer.StreamWriter._write

    def write(self: Any, chunk: bytes) -> None:
        if armed("upload") and len(chunk) > 1000:  # headers are smaller
            self.transport.write(bytes(chunk[: len(chunk) // 2]))
            strike("upload")
        real(self, chunk)

    http_writer.StreamWriter._write = write  # type: ignore[method-assign,assignment]


def around_commit(store: Any) -> None:
    real = store.put_if_absent

    def put_if_absent(self: Any, key: str, data: bytes) -> bool:
        if key.startswith("commits/"):
            strike("commit")
        done: bool = real(self, key, data)
        if key.startswith("commits/"):
            strike("committed")
        return done

    store.put_if_absent = put_if_absent


if __name__ == "__main__":
    from flows.cli import main

    arm_command()
    main(sys.argv[1:])
