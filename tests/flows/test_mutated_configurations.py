"""Spoilt configurations end in one sentence or are accepted; never in a traceback, a hang or a full memory."""

from pathlib import Path

import pytest
from transformers import LlamaConfig

from tests.flows.mutated_configurations import GOOD, case, outcomes, prepared
from tests.sampled import every_case, sampled
from tests.text.conftest import byte_tokenizer, save

N_CASES = 3000
SHARE = 0.05


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the configurations name: own activations, a corpus and a tiny model without weights."""
    root = tmp_path_factory.mktemp("spoilt")
    folder, model = root / "here", root / "model"
    folder.mkdir()
    save(byte_tokenizer(), model)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaConfig(vocab_size=258, **sizes).save_pretrained(model)
    prepared(folder, str(model))
    return folder


@pytest.mark.timeout(7200 if every_case() else 600)
def test_spoilt_configurations_are_accepted_or_refused_in_one_sentence(here: Path) -> None:
    numbers = sampled(range(N_CASES), SHARE, kind=lambda number: 0)
    found = dict(outcomes(map(case, numbers), here))
    assert {number: outcome for number, outcome in found.items() if outcome.kind not in GOOD} == {}
    refused = sum(outcome.kind == "refused" for outcome in found.values())
    assert len(numbers) // 2 < refused < len(numbers), "the generator spoils too little or too much to tell anything"
