"""Points at which processes of a harvest are held up: ``python -m tests.harvest.kill_points FOLDER ARGUMENTS``.

That is the command line with its points armed; Ray's workers arm theirs through the job's setup hook. Each forward pass of a
shard is noted as it begins.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.kills.points import Points, node

FOLDER = "SAEMILL_KILL_POINTS"
IN_ACTOR = ("forward", "encode", "upload", "commit", "committed")
"""One batch of the shard is through the model; a table is made, its Parquet file is not; half a file of rows is written;
all is, but no record of it; that too.
"""
IN_DRIVER = ("tokens", "manifest")
"""Before that stage's manifest."""


def arm_workers(folder: Path) -> None:
    """Have the workers of the cluster's job that this process will start arm their points."""
    hook = {"worker_process_setup_hook": "tests.harvest.kill_points.arm", "env_vars": {FOLDER: str(folder)}}
    os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": hook})


def arm() -> None:
    arm_actor(Points(Path(os.environ[FOLDER])))


def arm_actor(points: Points) -> None:
    """The points of whoever computes shards."""
    import tasks.activations.writer as writer
    import tasks.harvest.pool.actor as actor
    import tasks.lm.engines.transformers_engine as engine
    import tasks.storage.local as local
    import tasks.storage.s3 as s3

    points.around(engine, "capture", after="forward")
    points.around(writer, "_table", after="encode")
    points.halve_uploads()
    for store in (local.LocalStore, s3.S3Store):
        points.around(store, "put_if_absent", before="commit", after="committed", when=_of_a_record)
    at_forward_passes(points, actor)


def arm_command(points: Points) -> None:
    """The points of the process that conducts."""
    import tasks.harvest.ray_harvest as ray_harvest
    import tasks.text.tokenize as tokenize

    points.around(ray_harvest, "connect", after="connected")
    points.around(ray_harvest, "write_manifest", before="manifest")
    points.around(tokenize, "write_manifest", before="tokens")


def _of_a_record(store: Any, key: str, data: bytes) -> bool:
    return key.startswith("commits/")


def at_forward_passes(points: Points, actor: Any) -> None:
    """Note each, and meet its shard's curse, or pause, whenever a batch is through the model."""
    real = actor.forward

    def forward(subject: Any, config: Any, token_ids: Any, count: Any) -> Any:
        (shard,) = count.args
        points.note(shard=shard.name, began=time.time(), node=node())

        def counted(tokens: int) -> None:
            curse(points, shard.name)
            points.pause()
            count(tokens)

        return real(subject, config, token_ids, counted)

    actor.forward = forward


def curse(points: Points, shard: str) -> None:
    """Fail whenever the shard comes by that a file names: ``poison`` kills the process, ``fault`` raises."""
    if points.armed("poison") and (points.folder / "poison").read_text() == shard:
        os.kill(os.getpid(), signal.SIGKILL)
    if points.armed("fault") and (points.folder / "fault").read_text() == shard:
        raise ArithmeticError("this shard's numbers do not add up")


if __name__ == "__main__":
    from flows.cli import main

    arm_workers(Path(sys.argv[1]))
    arm_command(Points(Path(sys.argv[1])))
    main(sys.argv[2:])
