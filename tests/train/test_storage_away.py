"""A real training job to S3 whose server goes away for 20 s: while a checkpoint is written, as Ray Train hears of one, and
while one is read.
"""

import time
from pathlib import Path

import psutil
import pytest

from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS
from tests.conftest import s3_server
from tests.kills.processes import kill
from tests.patience import PATIENCE_S
from tests.train.kills import EVERY, Command, make_commands
from tests.turns import kills_a_training

pytestmark = [kills_a_training, pytest.mark.ray, pytest.mark.s3, pytest.mark.usefixtures("ray_cluster")]

SERVER_AWAY_S = 20.0


def test_a_run_outlasts_a_server_that_is_away_again_and_again(s3: str, s3_process: s3_server, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    make = make_commands(tmp_path, address, storage=f"{s3}/away", latent_shards=2, max_failures=2)
    undisturbed, command = make("undisturbed"), make("disturbed")
    assert undisturbed.run() == 0, undisturbed.said()
    command.arm("upload", step=EVERY)
    command.arm("commit", step=2 * EVERY)
    command.arm("step", step=2 * EVERY + 5)
    command.arm("read")  # nobody reads a checkpoint before a worker was killed
    with command.running() as process:
        for point in ("upload", "commit"):
            command.held(point, process)
            away(s3_process, command, point)
        kill([psutil.Process(command.held("step", process))])
        command.held("read", process)
        away(s3_process, command, "read")
        assert process.wait(PATIENCE_S) == 0, command.said()
    command.require_undisturbed(undisturbed)
    assert [steps[0] for steps in command.attempts()] == [1, 2 * EVERY + 1]
    folders = {info.key.split("/")[1] for info in open_store(command.out).list(f"{CHECKPOINTS}/step-")}
    assert len(folders) == command.config.train.keep_checkpoints


def away(server: s3_server, command: Command, point: str) -> None:
    """Take the server away from under whoever is held up at the point, for 20 s."""
    server.stop()
    command.let_go(point)
    time.sleep(SERVER_AWAY_S)
    server.start()
