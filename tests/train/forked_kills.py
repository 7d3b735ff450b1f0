"""Workers of a real training run killed at every point, without Ray: ``python -m tests.train.forked_kills FOLDER``.

Each worker is a fork of this process, which does what Ray Train does: when one is lost it ends the others and starts all
anew. Workers, their exchange, their checkpoints and the finished SAE are the real ones. Printed is what was survived.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist

from tasks.sae.mesh import OneProcess
from tasks.storage.objects import open_store
from tasks.train.checkpoint import write_part
from tasks.train.checkpoint_names import CHECKPOINTS, prune
from tasks.train.checkpoint_writer import CheckpointWriter
from tasks.train.distributed import TorchMesh
from tasks.train.finish import close
from tasks.train.loop import Run
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.kills import forks
from tests.kills.points import Points
from tests.sampled import every_case
from tests.train.conftest import make_run
from tests.train.kill_points import IN_WORKER, arm
from tests.train.kills import ARMED_FROM, WORKERS, Command, make_commands


def work(command: Command, rank: int, meeting: str) -> None:
    """What ``tasks/train/ray_train.py`` has one of Ray Train's workers do."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=WORKERS)
    points = Points(command.folder)
    arm(points)
    points.around(dist, "barrier", before="commit")
    mesh = TorchMesh(command.config.train.latent_shards, WORKERS)
    trainer = Worker(run_settings(command.config), command.activations, command.out, mesh)

    def keep(run: Run) -> None:
        copied = writer.copy(run) if mesh.data.rank == 0 else None

        def write() -> None:
            if copied is not None:
                write_part(copied(), open_store(command.out), f"{CHECKPOINTS}/", mesh.latents)
            dist.barrier()  # as telling Ray Train is one

        writer.begin(write)

    with CheckpointWriter() as writer:
        run = trainer.train(on_checkpoint=keep)
    found = trainer.finish(run)
    if rank == 0:
        (command.folder / "found.json").write_text(json.dumps(found))


def survive(command: Command, points: Sequence[str]) -> None:
    """Train to the end, though whichever worker comes first to each of the points is killed there."""
    command.folder.mkdir()

    def start() -> list[int]:
        meeting = tempfile.mkdtemp(dir=command.folder) + "/file"
        return [forks.fork(work, command, rank, meeting) for rank in range(WORKERS)]

    forks.survive(command, points, start, step=ARMED_FROM)
    prune(open_store(command.out), f"{CHECKPOINTS}/", command.config.train.keep_checkpoints)
    found = json.loads((command.folder / "found.json").read_text())
    close(run_settings(command.config), command.activations, command.out, found, {})


def main(folder: str) -> None:
    """Survive all points in one run and, where every case is wanted, each alone; by rows and by latents."""
    survived = []
    torch.set_num_threads(1)
    config, activations = make_run(Path(folder))
    warm = Worker(run_settings(config), activations, f"{folder}/warm", OneProcess())
    warm.train()  # what is imported late is so before the forks
    for latent_shards in (1, 2):
        make = make_commands(Path(folder), latent_shards=latent_shards)
        undisturbed = make(f"{latent_shards}-undisturbed")
        survive(undisturbed, [])
        for points in (IN_WORKER, *(product(IN_WORKER) if every_case() else ())):
            disturbed = make("-".join([f"{latent_shards}", *points]))
            survive(disturbed, points)
            disturbed.require_undisturbed(undisturbed)
            disturbed.require_gone_on(points)
            survived.append([latent_shards, *points])
    print(json.dumps({"survived": survived}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
