"""What a job of Ray Train leaves on storage, and what is made of it."""

import json
from pathlib import Path

import pytest
import ray

from tasks.errors import InputError
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import checkpoint_name, prune
from tasks.train.job.stored import drop_forgotten_checkpoints, drop_unusable_snapshot, require_shared

SNAPSHOT = "checkpoint_manager_snapshot.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of the steps 10, 20, 30, 40 and 50."""
    for step in (10, 20, 30, 40, 50):
        for name in ("state.json", "state.safetensors", ".tmp-of-a-killed-worker"):
            path = tmp_path / "checkpoints" / checkpoint_name(step) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    return tmp_path


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*"))


def tell_ray_train(folder: Path, *known: int, version: str = ray.__version__) -> None:
    results = [{"checkpoint_dir_name": checkpoint_name(step)} for step in known]
    (folder / "checkpoints" / SNAPSHOT).write_text(json.dumps({"ray_version": version, "checkpoint_results": results}))


def test_all_but_the_newest_checkpoints_go_with_what_killed_workers_left_in_them(folder: Path) -> None:
    prune(open_store(str(folder)), "checkpoints/", keep=2)
    assert steps(folder) == [40, 50]


def test_checkpoints_that_ray_train_knows_of_are_left_for_it_to_remove(folder: Path) -> None:
    tell_ray_train(folder, 10, 30)
    drop_forgotten_checkpoints(open_store(str(folder)), keep=2)
    assert steps(folder) == [10, 30, 40, 50]


def test_before_ray_train_has_written_a_list_it_knows_of_none(folder: Path) -> None:
    drop_forgotten_checkpoints(open_store(str(folder)), keep=1)
    assert steps(folder) == [50]


def test_while_ray_trains_list_cannot_be_read_nothing_is_removed(folder: Path) -> None:
    (folder / "checkpoints" / SNAPSHOT).write_text('{"ray_ver')
    drop_forgotten_checkpoints(open_store(str(folder)), keep=1)
    assert steps(folder) == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("broken", ['{"ray_ver', "[]", '{"ray_version": "1.0", "checkpoint_results": []}'])
def test_a_list_that_ray_train_would_not_start_from_is_removed(broken: str, folder: Path) -> None:
    (folder / "checkpoints" / SNAPSHOT).write_text(broken)
    drop_unusable_snapshot(str(folder))
    assert not (folder / "checkpoints" / SNAPSHOT).exists()


def test_a_list_that_names_what_is_gone_is_removed_and_a_good_one_kept(folder: Path) -> None:
    tell_ray_train(folder, 40, 50)
    drop_unusable_snapshot(str(folder))
    assert (folder / "checkpoints" / SNAPSHOT).exists()
    tell_ray_train(folder, 40, 60)
    drop_unusable_snapshot(str(folder))
    assert not (folder / "checkpoints" / SNAPSHOT).exists()
    assert steps(folder) == [10, 20, 30, 40, 50]


def test_a_worker_refuses_storage_that_is_not_shared(folder: Path) -> None:
    with pytest.raises(InputError, match=r"does not find .*Set storage to a folder that all machines"):
        require_shared(str(folder))
    (folder / "checkpoints/.validate_storage_marker").touch()
    require_shared(str(folder))
