import math

import numpy as np
import pytest
import torch

from tasks.errors import InputError
from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.scaling import Scaling
from tasks.train.config import TrainConfig
from tasks.train.curve import curve_to_parquet, spike_told, spikes
from tasks.train.loop import Run, train
from tasks.train.plan import Plan, plan
from tasks.train.train_state import initial_state

D_IN = 6
SCALING = Scaling(torch.zeros(D_IN), torch.ones(D_IN))


def tiny_plan(arch: str = "topk", **settings: object) -> Plan:
    train_settings = {"tokens": 960, "batch_tokens": 32, "lanes": 4, "precision": "fp32", "lr": 0.01} | settings
    return plan(SAEConfig(arch=arch, d_sae=24, k=3, tanh_coefficient=0.1), TrainConfig(**train_settings), D_IN)


def batches(p: Plan, first: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(p.n_steps, p.batch_rows, 12, generator=generator)
    directions = torch.randn(12, D_IN, generator=generator)
    return list((codes.where(codes > 0.8, 0) @ directions)[first:])


def start(p: Plan) -> Run:
    return Run(initial_state(p, torch.cat(batches(p))[:256]))


@pytest.mark.parametrize("arch", NAMES)
def test_training_lowers_the_loss_of_every_architecture(arch):
    p = tiny_plan(arch, tokens=6400)
    run = train(start(p), batches(p), p, SCALING)
    assert run.curve[-1].fvu < 0.7 * run.curve[0].fvu


def test_the_curve_ends_at_the_last_step_and_counts_tokens():
    p = tiny_plan(tokens=1000)
    run = train(start(p), batches(p), p, SCALING)
    assert (run.curve[-1].step, run.curve[-1].tokens) == (32, 1024)
    assert [row.step for row in run.curve] == list(range(1, 33))


def test_a_jump_of_the_error_is_flagged_at_its_row_and_a_calm_run_has_none():
    p = tiny_plan(tokens=1600)
    assert spikes(train(start(p), batches(p), p, SCALING).curve) == []
    rows = batches(p)
    rows[29] = rows[29] * 10
    curve = train(start(p), rows, p, SCALING).curve
    assert spikes(curve)[0] == 30
    assert "before step 30: FVU" in spike_told(curve[:30])


@pytest.mark.parametrize("arch", [name for name in NAMES if name != "dense"])
def test_sparsity_that_sets_in_is_no_jump(arch):
    p = tiny_plan(arch, tokens=6400)
    assert spikes(train(start(p), batches(p), p, SCALING).curve) == []


def test_topk_decoder_rows_keep_norm_one():
    p = tiny_plan()
    run = train(start(p), batches(p), p, SCALING)
    assert torch.allclose(run.state.parameters.W_dec.norm(dim=1), torch.ones(24), atol=1e-5)


def test_latents_that_do_not_fire_are_counted_in_rows_and_firing_resets_them():
    p = tiny_plan(tokens=32 * 2)
    run = train(start(p), batches(p), p, SCALING)
    assert set(run.state.silent.tolist()) <= {0, 32, 64}
    assert 0 in run.state.silent


def test_the_same_seed_gives_equal_bits_and_another_does_not():
    p, q = tiny_plan(), tiny_plan(seed=1)
    first, again = (train(start(p), batches(p), p, SCALING) for _ in range(2))
    assert torch.equal(first.state.parameters.flat, again.state.parameters.flat)
    assert not torch.equal(first.state.parameters.flat, start(q).state.parameters.flat)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_with_its_step(bad):
    p = tiny_plan(tokens=32 * 600)  # rows of the curve close every second step
    data = batches(p)
    data[6][0, 0] = bad
    with pytest.raises(InputError, match=r"at step 7 of 600"):
        train(start(p), data, p, SCALING)


def test_the_curve_is_a_parquet_table_with_a_row_per_logged_step(tmp_path):
    import pyarrow.parquet as pq

    p = tiny_plan()
    run = train(start(p), batches(p), p, SCALING)
    (tmp_path / "curve.parquet").write_bytes(curve_to_parquet(run.curve))
    table = pq.read_table(tmp_path / "curve.parquet")
    assert table.column_names == ["step", "tokens", "loss", "fvu", "l0", "dead_fraction", "lr", "grad_norm"]
    assert np.isfinite(table["grad_norm"].to_numpy()).all()
    assert table.num_rows == 30
