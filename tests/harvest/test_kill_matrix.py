"""A real `saemill harvest` killed with SIGKILL everywhere: by itself or given again, it ends as an undisturbed one does."""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.harvest.kill_points import IN_ACTOR, IN_DRIVER
from tests.harvest.kills import Command, write_config
from tests.kills.processes import HARVESTER, kill, kill_tree, titled
from tests.patience import PATIENCE_S
from tests.sampled import sampled
from tests.turns import kills_a_harvest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

KILLED = -signal.SIGKILL
turns = kills_a_harvest


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def on_cluster(ray_cluster: None) -> dict[str, object]:
    """Settings with which a command joins the tests' cluster, whose start it so need not wait for."""
    import ray

    return {"ray.address": ray.get_runtime_context().gcs_address, "harvest.actors": 1}


@pytest.fixture(scope="module")
def undisturbed(config_path: Path, on_cluster: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("undisturbed")
    command = Command(config_path, str(folder / "runs"), folder, {**on_cluster, "harvest.actors": 2})
    assert command.run() == 0, command.said()
    command.require_undisturbed(command)
    assert len(command.noted()) == len(command.commits())
    return command


@pytest.fixture
def command(config_path: Path, on_cluster: dict[str, object], undisturbed: Command, tmp_path: Path) -> Command:
    return Command(config_path, str(tmp_path / "runs"), tmp_path, dict(on_cluster))


def finish(command: Command, undisturbed: Command) -> None:
    """Give the same command again: it ends well, and leaves alone what was committed."""
    command.require_kept()
    assert command.run() == 0, command.said()
    command.require_undisturbed(undisturbed)


def kill_actors(points: Sequence[str], command: Command, process: psutil.Popen) -> None:
    """Kill the actor that comes to each of the points in turn."""
    for point in points:
        command.arm(point)
        kill([psutil.Process(command.held(point, process))])


def two_shards_committed(command: Command, process: psutil.Popen) -> None:
    command.until(lambda: len(command.commits()) >= 2, "two shards were committed", process)


@turns
def test_an_actor_killed_at_each_point_of_a_shard_is_replaced_and_the_command_ends_by_itself(
    command: Command, undisturbed: Command
) -> None:
    points = sampled(IN_ACTOR, share=0.4)  # test_random_kills.py holds all of them, without Ray
    with command.running() as process:
        kill_actors(points, command, process)
        assert process.wait(PATIENCE_S) == 0, command.said()
    assert {point: len(command.struck(point)) for point in IN_ACTOR} == {point: int(point in points) for point in IN_ACTOR}
    command.require_undisturbed(undisturbed)


@turns
@pytest.mark.s3
def test_an_actor_killed_in_the_midst_of_a_put_on_s3_leaves_no_half_object(
    command: Command, undisturbed: Command, s3: str
) -> None:
    command.storage = f"{s3}/killed-in-put"
    points = ["upload", *sampled(("commit", "committed"), share=0.5)]
    with command.running() as process:
        kill_actors(points, command, process)
        assert process.wait(PATIENCE_S) == 0, command.said()
    assert [len(command.struck(point)) for point in points] == [1] * len(points)
    command.require_undisturbed(undisturbed)


@turns
def test_the_command_killed_before_each_manifest_has_nothing_to_compute_again(
    command: Command, undisturbed: Command
) -> None:
    for point in max(sampled((IN_DRIVER, IN_DRIVER[1:]), share=0.5), key=len):
        with command.running() as process:
            command.arm(point)
            assert command.held(point, process) == process.pid
            process.kill()
            assert process.wait() == KILLED
    assert len(command.commits()) == len(undisturbed.commits()) == len(command.noted())
    finish(command, undisturbed)
    assert len(command.noted()) == len(undisturbed.commits())


@turns
def test_the_command_killed_while_its_actors_work_goes_on_when_given_again(command: Command, undisturbed: Command) -> None:
    process = command.start()
    two_shards_committed(command, process)
    process.kill()
    assert process.wait() == KILLED
    assert command.out.head("manifest.json") is None, "killed too late to show anything"
    finish(command, undisturbed)


@turns
def test_the_whole_tree_killed_with_its_own_cluster_goes_on_when_given_again(command: Command, undisturbed: Command) -> None:
    command.settings = {"ray.num_cpus": 2, "harvest.actors": 1}
    process = command.start()
    two_shards_committed(command, process)
    kill_tree(process)
    assert command.out.head("manifest.json") is None, "killed too late to show anything"
    finish(command, undisturbed)


@turns
def test_sigterm_ends_the_command_within_seconds_and_keeps_what_is_committed(command: Command, undisturbed: Command) -> None:
    process = command.start()
    two_shards_committed(command, process)
    process.terminate()
    told = time.monotonic()
    assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert time.monotonic() - told < 20  # it waits 5 s at most for what is being stored; the rest is a busy machine's
    assert "Stopped. The same command goes on from here" in command.said()
    assert command.out.head("manifest.json") is None, "stopped too late to show anything"
    finish(command, undisturbed)


@turns
def test_two_commands_racing_on_one_recipe_both_end_with_the_one_manifest(command: Command, undisturbed: Command) -> None:
    processes = [command.start(), command.start()]
    try:
        assert [process.wait(PATIENCE_S) for process in processes] == [0, 0], command.said()
    finally:
        for process in processes:
            kill_tree(process)
    command.require_undisturbed(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB, which the run as it is planned fits on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this user may not mount file systems: {mounted.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@turns
def test_a_disk_that_fills_up_ends_the_command_in_a_sentence_and_loses_nothing(
    command: Command, undisturbed: Command, small_disk: Path
) -> None:
    command.storage = str(small_disk / "runs")
    process = command.start()
    two_shards_committed(command, process)
    filler = fill(small_disk)
    assert process.wait(PATIENCE_S) == 2, command.said()
    said = command.said()
    assert "saemill: There is no room for" in said
    assert "make room there and give the same command again" in said
    assert "Traceback" not in said
    assert command.out.head("manifest.json") is None, "filled too late to show anything"
    filler.unlink()
    finish(command, undisturbed)


def fill(folder: Path) -> Path:
    """Write until nothing more fits."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        size = 2**20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


@turns
def test_a_shard_that_fails_is_given_up_by_name_after_all_others_are_stored(command: Command, undisturbed: Command) -> None:
    shard = cursed(command, undisturbed, "fault")
    assert command.run() == 1
    [sentence] = [line for line in command.said().splitlines() if line.startswith("saemill: ")]
    assert f"1 of {len(undisturbed.commits())} shards were given up; all others are stored" in sentence
    assert f"{shard} failed 3 times, at last with: this shard's numbers do not add up" in sentence
    assert len(command.commits()) == len(undisturbed.commits()) - 1
    (command.folder / "fault").unlink()
    finish(command, undisturbed)


@turns
def test_a_shard_that_kills_every_actor_is_given_up_and_no_other_is(command: Command, undisturbed: Command) -> None:
    command.settings["harvest.max_attempts"] = 1
    shard = cursed(command, undisturbed, "poison")
    assert command.run() == 1
    assert f"{shard} killed its actor 3 times" in command.said()
    assert len(command.commits()) == len(undisturbed.commits()) - 1
    (command.folder / "poison").unlink()
    finish(command, undisturbed)


def cursed(command: Command, undisturbed: Command, curse: str) -> str:
    """One of the shards, which will fail from now on."""
    name = sorted(undisturbed.commits())[len(undisturbed.commits()) // 2].removeprefix("commits/").removesuffix(".json")
    (command.folder / curse).write_text(name)
    return name


def test_no_process_of_a_harvest_outlives_its_command() -> None:
    _, alive = psutil.wait_procs(titled(HARVESTER), timeout=PATIENCE_S)
    assert alive == []
