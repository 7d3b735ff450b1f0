"""A run's time is accounted for: waiting for rows, steps, exchanges, checkpoints; and the sums outlive a kill."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.sae.mesh import OneProcess, Traffic
from tasks.storage.objects import open_store
from tasks.train.checkpoint import read_run, run_to_files
from tasks.train.loop import Run, train
from tasks.train.timing import accounts
from tests.train.test_loop import SCALING, batches, start, tiny_plan

PAUSE = 0.02


def slowly(rows: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    for batch in rows:
        time.sleep(PAUSE)
        yield batch


def test_waiting_for_rows_and_saving_are_told_apart_from_steps() -> None:
    p = tiny_plan(checkpoint_every_tokens=320)
    began = time.perf_counter()
    run = train(start(p), slowly(batches(p)), p, SCALING, on_checkpoint=lambda _: time.sleep(5 * PAUSE))
    wall, timing = time.perf_counter() - began, run.timing
    assert p.n_steps * PAUSE <= timing.waiting < timing.seconds
    assert 3 * 5 * PAUSE <= timing.saving < timing.seconds
    assert timing.waiting + timing.saving < timing.seconds <= wall
    assert timing.read_bytes == sum(batch.nbytes for batch in batches(p))
    assert (timing.exchanging, timing.sent_bytes) == (0, 0)


def test_what_exchanges_cost_is_taken_from_the_exchange_step_by_step() -> None:
    class Slow(OneProcess):
        """Alone, but with a price: a second and ten bytes a sum, some of it before training."""

        def __init__(self) -> None:
            self.traffic = Traffic(seconds=100.0, sent_bytes=1000.0)

        def all_reduce(self, tensor: torch.Tensor) -> None:
            self.traffic.seconds += 1.0
            self.traffic.sent_bytes += 10.0

    p, mesh = tiny_plan("jumprelu"), Slow()
    timing = train(start(p), batches(p), p, SCALING, mesh).timing
    assert timing.exchanging == mesh.traffic.seconds - 100.0
    assert timing.exchanging > 0
    assert timing.sent_bytes == 10 * timing.exchanging


def test_a_run_that_goes_on_from_a_checkpoint_has_spent_what_was_spent_before(tmp_path: Path) -> None:
    p, kept = tiny_plan(), list[dict[str, bytes]]()
    train(start(p), batches(p), p, SCALING, on_checkpoint=lambda run: kept.append(run_to_files(run)))
    store = open_store(str(tmp_path))
    for name, data in kept[0].items():
        store.put(f"one/{name}", data)
    again: Run = read_run(store, "one", p)
    before, step = again.timing.seconds, again.state.step
    assert before > 0
    train(again, batches(p, step), p, SCALING)
    assert again.timing.seconds > before
    assert again.timing.read_bytes == sum(batch.nbytes for batch in batches(p))


def test_a_finished_run_s_account_has_rates_shares_and_a_price() -> None:
    p = tiny_plan()
    timing = train(start(p), slowly(batches(p)), p, SCALING).timing
    found = accounts(timing, p, world_size=1, price_per_hour=3600.0)
    assert found["tokens_per_second"] == pytest.approx(960 / timing.seconds)
    assert 0 < found["waiting_share"] < 1
    assert found["exchange_share"] == found["sent_bytes_per_step"] == 0
    assert 0 < found["gemm_share"] < 1
    stepping, read = timing.seconds - timing.waiting - timing.saving, timing.read_bytes / 1e9
    assert found["read_gb_per_second_wanted"] == pytest.approx(read / stepping)
    assert found["read_gb_per_second"] == pytest.approx(read / (stepping + timing.waiting))
    assert found["price_per_million_tokens"] == pytest.approx(timing.seconds / 960 * 1e6)
    assert accounts(timing, p, 1, None)["price_per_million_tokens"] is None
