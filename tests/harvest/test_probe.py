import pytest

from tasks.harvest.config import HarvestConfig
from tasks.harvest.probe import load_engine, run_passes
from tasks.lm.config import ModelConfig


@pytest.mark.parametrize(("batch", "tokens"), [(None, 8 * 8), (2, 2 * 8)])
def test_batches_of_the_configured_size_run_for_about_as_long_as_is_asked(tiny_llama, batch, tokens):
    settings = HarvestConfig(hooks=["model.layers.1", "model.layers.0.mlp"], batch_sequences=batch, dtype="float32")
    engine = load_engine(settings, ModelConfig(name=tiny_llama, dtype="float32"), 8)
    found = run_passes(engine, settings, 8, 0.3)
    assert found.tokens % tokens == 0
    assert found.tokens > tokens, "a pass of this model takes milliseconds"
    assert 0.1 < found.seconds < 5
    assert {hook: rows.shape for hook, rows in found.activations.items()} == {
        "model.layers.1": (tokens, 16),
        "model.layers.0.mlp": (tokens, 16),
    }
    assert all(rows.isfinite().all() and rows.abs().sum() > 0 for rows in found.activations.values())


def test_where_one_sequence_takes_all_the_time_there_is_one_pass_of_one(tiny_llama):
    settings = HarvestConfig(hooks=["model.layers.1"])
    engine = load_engine(settings, ModelConfig(name=tiny_llama, dtype="float32"), 8)
    assert run_passes(engine, settings, 8, 0.0).tokens == 8
