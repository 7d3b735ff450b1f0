"""Workers of a real training run killed at every point, without Ray: ``python -m tests.train.forked_kills FOLDER``.

A worker that imports torch takes seconds to replace, a fork of this process takes none. So here each worker is a fork, and
this process does what Ray Train does: when one is lost it ends the others and starts all anew. Workers, their exchange,
their checkpoints and the finished SAE are the real ones. Printed is what was survived.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist

from tasks.sae.mesh import OneProcess
from tasks.storage.objects import open_store
from tasks.train.checkpoint import write_part
from tasks.train.checkpoint_names import CHECKPOINTS
from tasks.train.distributed import TorchMesh
from tasks.train.finish import close
from tasks.train.loop import Run
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.harvest.commands import until
from tests.sampled import every_case
from tests.train.conftest import make_run
from tests.train.kill_points import IN_WORKER, Points, arm_in_process, before
from tests.train.kills import Command

STEPS, EVERY, WORKERS = 60, 20, 2
GOES_ON_FROM = {"step": 20, "upload": 20, "commit": 40, "finish": 60}
"""The newest whole checkpoint at each point, which is reached in the order of these, at the first chance after step 30."""


def work(command: Command, rank: int, meeting: Path) -> None:
    """What ``tasks/train/ray_train.py`` has one of Ray Train's workers do."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=WORKERS)
    points = Points(command.folder, 0)
    arm_in_process(points)
    before(dist, "barrier", "commit", points)
    mesh = TorchMesh(command.config.train.latent_shards, WORKERS)
    trainer = Worker(run_settings(command.config), command.activations, command.out, mesh)

    def keep(run: Run) -> None:
        if mesh.data.rank == 0:
            write_part(run, open_store(command.out), f"{CHECKPOINTS}/", mesh.latents)
        dist.barrier()  # as telling Ray Train is one

    found = trainer.finish(trainer.train(on_checkpoint=keep))
    if rank == 0:
        (command.folder / "found.json").write_text(json.dumps(found))


def start(command: Command, attempt: int) -> list[int]:
    """All workers, forked; their process ids by rank."""
    command.folder.mkdir(exist_ok=True)
    pids = []
    for rank in range(WORKERS):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            work(command, rank, command.folder / f"meeting-{attempt}")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # what this process has to do at its end is its parent's
    return pids


def killed(pid: int) -> int:
    """kill -9; how the process ended, which may have been by itself."""
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def ended(pid: int) -> int:
    """Wait for a process; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def held(command: Command, point: str) -> int:
    """Wait for a worker that is held up at the point; its process id."""
    until(lambda: any(command.folder.glob(f"{point}.*")), f"a worker at {point}")
    [place] = command.folder.glob(f"{point}.*")
    return int(place.suffix.removeprefix("."))


def survive(command: Command, points: Sequence[str]) -> None:
    """Train to the end, though whichever worker comes first to each of the points is killed there."""
    for attempt, point in enumerate(points):
        command.folder.mkdir(exist_ok=True)
        command.arm(point, step=30)
        pids = start(command, attempt)
        victim = held(command, point)
        if point == "commit":
            until(lambda: command.written(GOES_ON_FROM["commit"]), "the other worker's part of the checkpoint")
        assert killed(victim) == -signal.SIGKILL
        for pid in set(pids) - {victim}:
            killed(pid)
    pids = start(command, len(points))
    assert [ended(pid) for pid in pids] == [0] * WORKERS
    found = json.loads((command.folder / "found.json").read_text())
    close(run_settings(command.config), command.activations, command.out, found, {})


def main(folder: str) -> None:
    """Survive all points in one run and, where every case is wanted, each alone; by rows and by latents."""
    survived = []
    torch.set_num_threads(1)
    config, activations = make_run(Path(folder))
    Worker(
        run_settings(config), activations, f"{folder}/warm", OneProcess()
    ).train()  # what is imported late is so before the forks
    for latent_shards in (1, 2):
        settings = {"tokens": 32 * STEPS, "checkpoint_every_tokens": 32 * EVERY, "workers": 2, "max_failures": 5}
        config, activations = make_run(Path(folder), latent_shards=latent_shards, **settings)

        def command(name: str, parts: int = latent_shards, config=config, activations=activations) -> Command:  # type: ignore[no-untyped-def]
            where = f"{folder}/{parts}-{name}"
            return Command(config, activations, f"{where}/sae", Path(f"{where}-points"))

        undisturbed = command("undisturbed")
        survive(undisturbed, [])
        for points in (IN_WORKER, *(product(IN_WORKER) if every_case() else ())):
            disturbed = command("-".join(points))
            survive(disturbed, points)
            disturbed.require_undisturbed(undisturbed)
            begun = [steps[0] - 1 for steps in disturbed.attempts()]
            assert begun == [0, *(GOES_ON_FROM[point] for point in points if point != "finish")], (points, begun)
            survived.append([latent_shards, *points])
    print(json.dumps(survived))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
