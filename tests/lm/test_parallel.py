"""Which models several processes can hold together."""

import pytest

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.load import load_skeleton
from tasks.lm.parallel import require_parts


@pytest.mark.parametrize("n", [1, 2])
def test_heads_that_can_be_dealt_out_evenly_are_enough(folders, n):
    require_parts(load_skeleton(ModelConfig(name=str(folders / "llama"))), n)


@pytest.mark.parametrize(("n", "heads"), [(3, "num_attention_heads, of which it has 4"), (4, "num_key_value_heads, .* 2")])
def test_heads_that_cannot_be_dealt_out_evenly_are_named(folders, n, heads):
    with pytest.raises(InputError, match=f"harvest.gpus_per_replica is {n} but must divide the model's {heads}"):
        require_parts(load_skeleton(ModelConfig(name=str(folders / "llama"))), n)


def test_a_family_without_a_plan_is_refused_by_name(folders):
    skeleton = load_skeleton(ModelConfig(name=str(folders / "gpt2")))
    require_parts(skeleton, 1)
    with pytest.raises(InputError, match=r"no plan by which processes could hold parts of a GPT2LMHeadModel\. Set it to 1"):
        require_parts(skeleton, 2)
