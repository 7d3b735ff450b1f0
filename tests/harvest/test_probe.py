import pytest

from tasks.harvest.config import HarvestConfig
from tasks.harvest.probe import affordable, load_engine, run_passes
from tasks.lm.config import ModelConfig


@pytest.mark.parametrize(("batch", "most"), [(None, 8), (2, 2)])
def test_batches_of_the_configured_size_run_for_about_as_long_as_is_asked(tiny_llama, batch, most):
    settings = HarvestConfig(hooks=["model.layers.1", "model.layers.0.mlp"], batch_sequences=batch, dtype="float32")
    engine = load_engine(settings, ModelConfig(name=tiny_llama, dtype="float32"), 8)
    found = run_passes(engine, settings, 8, 0.3)
    (n,) = {len(rows) for rows in found.activations.values()}
    assert n in range(8, 8 * most + 1, 8), "fewer sequences at once where the machine is busy"
    assert found.tokens % n == 0
    assert found.seconds > 0
    assert {hook: rows.shape[1] for hook, rows in found.activations.items()} == dict.fromkeys(settings.hooks, 16)
    assert all(rows.isfinite().all() and rows.abs().sum() > 0 for rows in found.activations.values())


def test_where_one_sequence_takes_all_the_time_there_is_one_pass_of_one(tiny_llama):
    settings = HarvestConfig(hooks=["model.layers.1"])
    engine = load_engine(settings, ModelConfig(name=tiny_llama, dtype="float32"), 8)
    assert run_passes(engine, settings, 8, 0.0).tokens == 8


@pytest.mark.parametrize(("of_one", "seconds", "expected"), [(0.1, 4.0, 8), (0.5, 4.0, 4), (3.0, 4.0, 1), (0.1, 0.0, 1)])
def test_a_batch_takes_half_of_the_time_at_most(of_one, seconds, expected):
    assert affordable(8, of_one, seconds) == expected
