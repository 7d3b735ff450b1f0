"""Workers of which not all can be dealt an equal share: some train, the others come to checkpoints only."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tasks.train.config import TrainConfig
from tasks.train.distributed import Spares, TorchMesh
from tests.conftest import free_port
from tests.together import together


@pytest.mark.parametrize(
    ("settings", "at_work"),
    [
        ({"workers": 8}, [1, 2, 2, 4, 4, 4, 4, 8]),
        ({"workers": 8, "latent_shards": 2, "min_workers": 2}, [1, 2, 2, 4, 4, 4, 4, 8]),
        ({"workers": 12, "lanes": 12, "batch_tokens": 1200}, [1, 2, 3, 4, 4, 6, 6, 6, 6, 6, 6, 12]),
    ],
)
def test_as_many_work_as_lanes_can_be_dealt_to(settings: dict[str, int], at_work: list[int]) -> None:
    config = TrainConfig(**settings)
    assert [config.at_work(n) for n in range(1, config.workers + 1)] == at_work


@pytest.mark.parametrize(
    "settings", [{"workers": 4, "min_workers": 5}, {"workers": 4, "latent_shards": 2, "min_workers": 1}]
)
def test_a_least_number_that_no_run_could_have_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"train\.min_workers is \d but must be between train\.latent_shards"):
        TrainConfig(**settings)


def _three_of_which_two_train(rank: int, port: int, out: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    try:
        spares, heard = Spares(1, 2), list[int]()
        if rank == 2:
            spares.wait(heard.append)
        else:
            mesh = TorchMesh(1, 2)
            assert mesh.data.all_gather([torch.tensor([rank])])[0].tolist() == [0, 1]
            for step in (3, 7):
                heard.append(step)
                if rank == 0:
                    spares.tell(step)
            if rank == 0:
                spares.tell(None)
        Path(out, str(rank)).write_text(repr(heard))
    finally:
        dist.destroy_process_group()


def test_a_spare_worker_comes_to_each_checkpoint_until_the_end(tmp_path: Path) -> None:
    together(_three_of_which_two_train, free_port(), str(tmp_path), world_size=3)
    assert [Path(tmp_path, str(rank)).read_text() for rank in range(3)] == ["[3, 7]"] * 3
