import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tasks.sae.config import SAEConfig
from tasks.train.config import TrainConfig
from tasks.train.distributed import TorchMesh
from tasks.train.probe import take_steps
from tests.together import together

TRAIN = TrainConfig(tokens=64, batch_tokens=64, lanes=4, workers=2, precision="fp32")
ROWS = torch.randn(50, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "l1"])
@pytest.mark.parametrize("d_in", [24, 16])
def test_steps_are_taken_however_few_the_rows_and_the_runs_own_steps_are(arch: str, d_in: int) -> None:
    found = take_steps(SAEConfig(arch=arch, d_sae=32, k=4), TRAIN, ROWS, d_in, 0.05)
    assert 1e-5 < found.seconds < 5
    assert 1e3 < found.product_flop_per_second < 1e14


def test_a_larger_sae_takes_longer_steps() -> None:
    small, large = (take_steps(SAEConfig(arch="topk", d_sae=n, k=4), TRAIN, ROWS, 24, 0.2) for n in (64, 65_536))
    assert large.seconds > 2 * small.seconds


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        found = take_steps(SAEConfig(arch="topk", d_sae=32, k=4), TRAIN, ROWS, 24, 0.05, TorchMesh())
        Path(folder, f"{rank}.json").write_text(json.dumps([found.seconds, found.product_flop_per_second]))
    finally:
        dist.destroy_process_group()


def test_workers_take_their_steps_together(tmp_path: Path) -> None:
    together(work, str(tmp_path), world_size=2)
    seconds = [json.loads((tmp_path / f"{rank}.json").read_text())[0] for rank in range(2)]
    assert all(0 < each < 5 for each in seconds)
    assert max(seconds) < 3 * min(seconds), "they wait for each other in every step"
