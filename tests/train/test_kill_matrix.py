"""A real training job killed with SIGKILL everywhere: by itself or given again, it ends as an undisturbed one does."""

import signal
from collections.abc import Callable
from functools import cache

import psutil
import pytest

from tests.kills.processes import CONTROLLER, WORKER, kill, kill_tree, titled
from tests.patience import PATIENCE_S, until
from tests.sampled import sampled
from tests.train.kill_points import IN_WORKER
from tests.train.kills import ARMED_FROM, STEPS, Command, make_commands, surviving
from tests.turns import kills_a_training

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

MESHES = {"rows": 1, "latents": 2}
Make = Callable[[str, str], Command]


@pytest.fixture(scope="module")
def make(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A command on the tests' cluster, which it need not wait for; all have the same activations."""
    import ray

    folder, address = tmp_path_factory.mktemp("killed"), ray.get_runtime_context().gcs_address
    return lambda mesh, name: make_commands(folder, address, latent_shards=MESHES[mesh])(f"{mesh}-{name}")


@pytest.fixture(scope="module")
def undisturbed(make: Make) -> Callable[[str], Command]:
    """A run on a mesh that nobody disturbs, the same for all cases."""

    @cache
    def run(mesh: str) -> Command:
        command = make(mesh, "undisturbed")
        assert command.run() == 0, command.said()
        assert command.attempts() == [list(range(1, STEPS + 1))]
        return command

    return run


def the_controller(held: int, command: psutil.Popen) -> list[psutil.Process]:
    return titled(CONTROLLER)[-1:]


# Who is killed while a worker is held up at a point, and whether the command ends by itself then.
VICTIMS: dict[str, tuple[Callable[[int, psutil.Popen], list[psutil.Process]], bool]] = {
    "worker": (lambda held, command: [psutil.Process(held)], True),
    "all-workers": (lambda held, command: titled(WORKER), True),
    "controller": (the_controller, True),
    "command": (lambda held, command: [command], False),
}
POINTS = ("step", "upload", "commit")
CASES = [("worker", "latents", IN_WORKER), *((victim, "rows", POINTS) for victim in VICTIMS)]
# test_forked_kills.py holds every point in milliseconds.


@kills_a_training
@pytest.mark.parametrize(("victim", "mesh", "points"), CASES, ids=["-".join(case[:2]) for case in CASES])
def test_whoever_is_killed_at_each_point_the_run_ends_undisturbed(
    victim: str, mesh: str, points: tuple[str, ...], make: Make, undisturbed: Callable[[str], Command]
) -> None:
    points = tuple(sampled(points, share=0.3))  # each costs a start of Ray Train, a minute on two busy cores
    command, (victims, goes_on) = make(mesh, victim), VICTIMS[victim]
    process = command.start()
    try:
        for point in points:
            command.arm(point, ARMED_FROM)
            held = command.held(point, process)
            kill(victims(held, process))
            if not goes_on:
                assert process.wait(PATIENCE_S) in (1, -signal.SIGKILL), command.said()
                until(lambda held=held: not psutil.pid_exists(held), "the end of the killed job's worker")  # type: ignore[misc]
                process = command.start()
        assert process.wait(PATIENCE_S) == 0, command.said()
    finally:
        kill_tree(process)
    command.require_undisturbed(undisturbed(mesh))
    command.require_gone_on(points)
    assert titled(WORKER) == []


def test_the_history_that_survives_is_counted_over_restarts() -> None:
    first, second = [(1, step) for step in range(1, 8)], [(2, step) for step in range(5, 10)]
    assert surviving(first + second) == list(range(1, 10))
    with pytest.raises(AssertionError, match="process 2 began with step 9 after 7"):
        surviving([*first, (2, 9)])
    with pytest.raises(AssertionError, match="skipped or repeated"):
        surviving([*first, (1, 7)])
