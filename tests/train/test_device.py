"""On what a training runs: what ``train.use_gpu: auto`` comes to, and what becomes of a run that goes on elsewhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.precision import Machine
from tasks.sae.parameters import layout_of, view
from tasks.storage.objects import open_store
from tasks.train.checkpoint import run_to_files
from tasks.train.checkpoint_names import checkpoint_name
from tasks.train.checkpoint_writer import CheckpointWriter
from tasks.train.config import TrainConfig
from tasks.train.device import Kind, begun_on, settled
from tests.train.test_loop import start, tiny_plan

H100, T4, V100 = (9, 0), (7, 5), (7, 0)
NONE = Machine("a CPU", None)


def node(*gpus: tuple[int, int]) -> Machine:
    return Machine("a CPU", None, gpus=gpus)


def came_to(machines: list[Machine], begun: Kind | None = None, **given: Any) -> tuple[object, int, str | None]:
    train, told = settled(TrainConfig(**given), machines, begun)
    return train.use_gpu, train.workers, told


def test_auto_takes_a_gpu_for_each_worker_where_there_are_so_many() -> None:
    one_each = "on 2 GPUs, one for each worker; train.use_gpu=false takes CPUs"
    assert came_to([node(H100, H100)]) == (True, 2, one_each)
    assert came_to([node(T4), NONE, node(H100), node(H100)]) == (True, 2, one_each)


def test_auto_takes_no_gpu_and_says_nothing_where_there_is_none() -> None:
    assert came_to([NONE, NONE]) == came_to([]) == came_to([NONE], "cpu") == (False, 2, None)


@pytest.mark.parametrize(
    ("given", "n_gpus", "workers"),
    [
        ({}, 1, 1),
        ({"workers": 8}, 5, 4),
        ({"workers": 8, "latent_shards": 4}, 7, 4),
        ({"workers": 8, "latent_shards": 2}, 3, 2),
    ],
)
def test_where_there_are_fewer_gpus_than_workers_are_fewer(given: dict[str, int], n_gpus: int, workers: int) -> None:
    use_gpu, found, told = came_to([node(*[H100] * n_gpus)], **given)
    assert (use_gpu, found) == (True, workers)
    assert told is not None
    assert f"with as many workers in place of train.workers ({given.get('workers', 2)})" in told


def test_workers_that_may_be_fewer_are_left_to_grow() -> None:
    train, _ = settled(TrainConfig(workers=8, min_workers=2), [node(H100, H100, H100)], None)
    assert (train.on_gpus, train.workers, train.min_workers) == (True, 8, 2)
    train, _ = settled(TrainConfig(workers=8, min_workers=4), [node(H100, H100)], None)
    assert (train.on_gpus, train.workers, train.least_workers) == (True, 2, 2)


def test_gpus_that_auto_does_not_take_are_told_of() -> None:
    use_gpu, _, told = came_to([node(H100, H100), node(V100)])
    assert (use_gpu, told) == (
        False,
        "on CPUs, as not all of the 3 GPUs are of compute capability 7.5 or later (train.use_gpu)",
    )
    use_gpu, workers, told = came_to([node(H100)], workers=4, latent_shards=4)
    assert (use_gpu, workers) == (False, 4)
    assert told == "on CPUs, as train.latent_shards wants more workers than there are GPUs (1)"


def test_a_run_stays_on_the_kind_of_device_on_which_it_began() -> None:
    began_here = "on CPUs, on which it began; the 2 GPUs would give another rounding (train.use_gpu)"
    assert came_to([node(H100, H100)], "cpu") == (False, 2, began_here)
    assert came_to([node(H100)], "cuda")[:2] == (True, 1), "on fewer of them"
    for machines in ([NONE], [node(V100)]):
        with pytest.raises(InputError, match=r"This training began on GPUs, but .* has 0 .*train\.use_gpu to false"):
            came_to(machines, "cuda")


def test_who_names_another_kind_gets_it_and_is_told() -> None:
    use_gpu, _, told = came_to([], "cuda", use_gpu=False)
    assert use_gpu is False
    assert str(told).startswith("on CPUs from here, as train.use_gpu says; up to its last checkpoint it was on GPUs.")
    use_gpu, _, told = came_to([], "cpu", use_gpu=True)
    assert use_gpu is True
    assert str(told).startswith("on GPUs from here, as train.use_gpu says; up to its last checkpoint it was on CPUs.")
    assert came_to([], "cpu", use_gpu=False) == (False, 2, None)
    assert came_to([], None, use_gpu=True) == (True, 2, None)


def keep(folder: Path, step: int, **changed: str | None) -> None:
    """A checkpoint of a run on this machine, or one that says something else of its device."""
    run = start(tiny_plan())
    run.state.step = step
    for name, data in run_to_files(run).items():
        for kind, said in changed.items():
            assert b'"device": "cpu"' in data or name.endswith("safetensors")
            data = data.replace(b'"device": "cpu"', f'"{kind}": "{said}"'.encode())
        open_store(str(folder)).put(f"checkpoints/{checkpoint_name(step)}/{name}", data)


def test_the_newest_checkpoint_says_on_what_it_was_taken(tmp_path: Path) -> None:
    assert begun_on(str(tmp_path)) is None
    keep(tmp_path, 1)
    assert begun_on(str(tmp_path)) == "cpu"
    keep(tmp_path, 2, device="cuda")
    assert begun_on(str(tmp_path)) == "cuda"
    keep(tmp_path, 3, elsewhere="cpu")  # of a version that did not say
    assert begun_on(str(tmp_path)) == "cuda"
    (tmp_path / "checkpoints" / checkpoint_name(3) / "state.json").write_text('{"device": "cp')
    assert begun_on(str(tmp_path)) == "cuda"
    keep(tmp_path, 4, device="xpu")
    assert begun_on(str(tmp_path)) == "cuda"


def test_a_copy_of_a_run_says_where_the_run_is() -> None:
    run = start(tiny_plan())
    assert run.device == "cpu"
    run.state = replace(run.state, gradients=view(run.state.gradients.flat.to("meta"), layout_of(run.state.gradients)))
    assert CheckpointWriter().copy(run)().device == run.device == "meta"
