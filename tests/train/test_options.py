"""What a run may do beside plain training: k that falls, a moving average of weights, a bias at the median, a threshold."""

import pytest
import torch

from tasks.sae import SparseAutoencoder
from tasks.sae.config import SAEConfig
from tasks.sae.init import geometric_median, initial_parameters
from tasks.sae.mesh import OneProcess
from tasks.sae.scaling import Scaling
from tasks.storage.objects import open_store
from tasks.train.checkpoint import read_run, run_to_files
from tasks.train.config import TrainConfig
from tasks.train.finish import finished_weights
from tasks.train.loop import Run, train
from tasks.train.plan import Plan, plan
from tasks.train.step import train_step
from tasks.train.train_state import initial_state

D_IN = 6
SCALING = Scaling(torch.linspace(-1, 1, D_IN), torch.full((D_IN,), 2.0))


def tiny_plan(sae: dict[str, object], **settings: object) -> Plan:
    train_settings = {"tokens": 960, "batch_tokens": 32, "lanes": 4, "precision": "fp32", "lr": 0.01} | settings
    return plan(SAEConfig(**({"d_sae": 24, "k": 3} | sae)), TrainConfig(**train_settings), D_IN)


def batches(p: Plan, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(p.n_steps, p.batch_rows, 12, generator=generator)
    directions = torch.randn(12, D_IN, generator=torch.Generator().manual_seed(99))
    return list(codes.where(codes > 0.8, 0) @ directions)


def trained(p: Plan) -> Run:
    return train(Run(initial_state(p, SCALING.apply(torch.cat(batches(p)[:8])))), batches(p), p, SCALING)


def test_k_falls_from_where_it_starts_and_stays_where_it_ends():
    p = tiny_plan({"k_start": 11}, k_anneal_fraction=0.5)
    assert [p.k_at(step) for step in (0, 7, 15, 16, 29)] == [11, 7, 3, 3, 3]
    l0 = [row.l0 for row in trained(p).curve]
    assert l0[0] > 6
    assert max(l0[-10:]) <= 3


def test_without_a_start_k_is_k():
    p = tiny_plan({})
    assert {p.k_at(step) for step in range(p.n_steps)} == {3}


def test_the_moving_average_follows_the_weights_and_becomes_the_result():
    p = tiny_plan({}, ema_decay=0.8)
    state = initial_state(p, SCALING.apply(torch.cat(batches(p)[:8])))
    expected = state.parameters.flat.clone()
    for step, raw in enumerate(batches(p)):
        train_step(state, raw, p, SCALING, OneProcess())
        # The first steps count more, so that the start is soon forgotten.
        expected.lerp_(state.parameters.flat, 1 - min(0.8, step / (step + 10)))
    assert state.averaged is not None
    assert torch.allclose(state.averaged, expected)
    assert not torch.allclose(state.averaged, state.parameters.flat, atol=1e-4)
    average = state.averaged.clone()
    weights = finished_weights(p, state, SCALING)
    assert torch.allclose(weights.W_dec.norm(dim=1), torch.ones(24), atol=1e-5)
    assert torch.allclose(weights.W_enc.T, average[: 24 * D_IN].view(24, D_IN), atol=1e-5)
    assert torch.equal(state.averaged, average)  # the result is made of a copy


def test_checkpoints_keep_the_moving_average(tmp_path):
    p = tiny_plan({}, ema_decay=0.8)
    run, store = trained(p), open_store(str(tmp_path))
    for name, data in run_to_files(run).items():
        store.put(f"one/{name}", data)
    again = read_run(store, "one", p)
    assert again.state.averaged is not None
    assert run.state.averaged is not None
    assert torch.equal(again.state.averaged, run.state.averaged)


def test_the_geometric_median_has_the_least_summed_distance_and_no_outlier_moves_it_far():
    rows = torch.randn(400, D_IN, generator=torch.Generator().manual_seed(0))
    median = geometric_median(rows)

    def distance(point: torch.Tensor) -> float:
        return float((rows - point).norm(dim=1).sum())

    for direction in torch.eye(D_IN):
        assert distance(median) < min(distance(median + 0.01 * direction), distance(median - 0.01 * direction))
    rows[0] = 1e4
    assert float((geometric_median(rows) - median).norm()) < 0.05
    assert float((rows.mean(0) - median).norm()) > 10


def test_a_bias_at_the_median_is_taken_from_what_is_encoded_first():
    p = tiny_plan({"b_dec": "geometric_median"})
    x = torch.randn(200, D_IN, generator=torch.Generator().manual_seed(0)) + 5
    parameters = initial_parameters(p.sae, p.layout, 0, x)
    assert torch.allclose(parameters.b_dec, geometric_median(x))
    assert torch.allclose(parameters.encoder @ parameters.b_dec + parameters.b_enc, torch.zeros(24), atol=1e-4)


@pytest.mark.parametrize("arch", ["batchtopk", "matryoshka"])
def test_the_threshold_of_a_finished_sae_keeps_about_k_latents_of_rows_that_training_never_saw(arch):
    p = tiny_plan({"arch": arch}, tokens=128 * 300, batch_tokens=128)
    sae = SparseAutoencoder(p.sae, finished_weights(p, trained(p).state, SCALING))
    l0 = float((sae.encode(torch.cat(batches(p, seed=1))) > 0).sum(1).double().mean())
    assert l0 == pytest.approx(3, rel=0.05)
