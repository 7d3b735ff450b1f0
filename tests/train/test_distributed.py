"""One worker with batch B and W workers with B / W train the same SAE up to rounding."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tasks.config import PipelineConfig
from tasks.sae.exchange import Alone
from tasks.train.distributed import TorchExchange
from tasks.train.state import run_to_files
from tasks.train.worker import Worker
from tests.conftest import free_port


def _worker(rank: int, world_size: int, port: int, config: PipelineConfig, activations: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    try:
        run = Worker(config, activations, out, TorchExchange(), rank).train()
        torch.save(
            {"flat": run.state.parameters.flat, "silent": run.state.silent, "fvu": [row.fvu for row in run.curve]},
            Path(out, f"{world_size}-{rank}.pt"),
        )
    finally:
        dist.destroy_process_group()


def train_with(world_size: int, config: PipelineConfig, activations: str, out: Path) -> list[dict[str, torch.Tensor]]:
    out.mkdir(exist_ok=True)
    mp.spawn(_worker, (world_size, free_port(), config, activations, str(out)), nprocs=world_size)
    return [torch.load(out / f"{world_size}-{rank}.pt", weights_only=True) for rank in range(world_size)]


@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_one_two_and_four_workers_train_the_same_sae(arch, tiny_run, tmp_path):
    config, activations = tiny_run(sae={"arch": arch, "aux_k": 2}, dead_after_tokens=64)
    alone = Worker(config, activations, str(tmp_path / "alone"), Alone()).train()
    for world_size in (2, 4):
        ranks = train_with(world_size, config, activations, tmp_path / "out")
        for other in ranks[1:]:
            assert torch.equal(other["flat"], ranks[0]["flat"])
        assert torch.allclose(ranks[0]["flat"], alone.state.parameters.flat, atol=2e-4)
        assert torch.equal(ranks[0]["silent"], alone.state.silent)
        assert ranks[0]["fvu"] == pytest.approx([row.fvu for row in alone.curve], rel=1e-4)


def test_dead_latents_took_part_in_that_comparison(tiny_run, tmp_path):
    config, activations = tiny_run(sae={"aux_k": 2}, dead_after_tokens=64)
    run = Worker(config, activations, str(tmp_path / "alone"), Alone()).train()
    assert sum(row.dead_fraction > 0 for row in run.curve) > len(run.curve) / 2
    assert run_to_files(run)
