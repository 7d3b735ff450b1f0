"""Hooks of many families of models against plain forward hooks; `python -m tests.lm.families` measures all (FAMILIES.md)."""

import warnings

import pytest

from tests.lm.families import check
from tests.sampled import every_case, sampled

# Those whose tiny model takes less than 3 s of a core.
FAMILIES = ["llama", "deberta", "openai-gpt", "t5", "longformer", "bart", "mixtral", "bert", "big_bird", "mamba", "albert"]
ALWAYS = {"deberta", "openai-gpt", "t5", "longformer"}  # each once failed in its own way


@pytest.mark.parametrize("kind", sampled(FAMILIES, 0.1, kind=lambda kind: kind if kind in ALWAYS else ""))
def test_every_hook_listed_is_what_a_plain_forward_hook_sees_after_pruning_and_when_replaced(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, at tiny configurations
        outcome = check(kind, 1.0 if every_case() else 0.2)
    assert outcome.wrong == []
    assert outcome.outputs == outcome.spliced > 1
    assert outcome.inputs > 0
