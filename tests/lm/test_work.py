import pytest

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.load import load_model, load_skeleton
from tasks.lm.work import flop_of, flop_to, numbers_to

CONTEXT = 7
# Of the Llama of conftest.py: 16 wide, four heads of 4 of which two are of keys and values, 32 within, 50 tokens.
PROJECTIONS = 2 * 16 * 16 + 2 * 16 * 8
MLP = 3 * 16 * 32
ATTENTION = 2 * 16 * CONTEXT
LAYER = 2 * CONTEXT * (PROJECTIONS + MLP + ATTENTION)
ROTARY = 2 * 2 * CONTEXT
"""Angles are a product of positions and frequencies, two of them in a head of 4."""


@pytest.fixture
def llama(folders):
    return load_skeleton(ModelConfig(name=str(folders / "llama"), dtype="float32"))


def test_the_work_of_a_model_is_that_of_its_products(llama):
    assert flop_to(llama, ["model.layers.0"], CONTEXT) == pytest.approx(LAYER, abs=ROTARY)
    assert flop_to(llama, ["model.layers.2", "model.layers.1"], CONTEXT) == pytest.approx(3 * LAYER, abs=ROTARY)
    assert flop_of(llama, CONTEXT) == pytest.approx(4 * LAYER + 2 * CONTEXT * 16 * 50, abs=ROTARY)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_other_families_work_too(folders, name):
    skeleton = load_skeleton(ModelConfig(name=str(folders / name), dtype="float32"))
    hook = {"gpt2": "transformer.h.1", "bert": "bert.encoder.layer.1"}[name]
    hook = hook if hook in dict(skeleton.named_modules()) else "encoder.layer.1"
    assert 0 < flop_to(skeleton, [hook], CONTEXT) < flop_of(skeleton, CONTEXT)


def test_the_weights_up_to_a_hook_are_those_that_a_harvest_loads(folders, llama):
    config = ModelConfig(name=str(folders / "llama"), dtype="float32")
    short = load_model(config, hooks=["model.layers.1"])
    after = 16 + 50 * 16  # the last norm and the unembedding, which transformers keeps
    assert numbers_to(llama, ["model.layers.1"]) == sum(p.numel() for p in short.parameters()) - after
    assert numbers_to(llama, ["model.layers.1", "model.layers.0.mlp"]) == numbers_to(llama, ["model.layers.1:input"])


def test_a_hook_that_is_not_there_is_refused(llama):
    with pytest.raises(InputError, match=r"no module 'model\.layers\.9'"):
        numbers_to(llama, ["model.layers.9"])
