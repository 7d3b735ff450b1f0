"""What the planning of runs does with texts, caches and accounts as it finds them."""

from pathlib import Path
from typing import Any

import pytest

from flows.addresses import addresses
from flows.config import PipelineConfig, parse_config
from flows.planning import corpus_of
from tasks.errors import InputError
from tasks.storage.artifacts import write_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def of_text(folder: Path, **changed: Any) -> PipelineConfig:
    """A run on a text whose only file is a damaged one."""
    (folder / "text.parquet").write_bytes(b"no footer")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    settings = {
        "name": "text",
        "storage": str(folder / "runs"),
        "text": {"source": str(folder / "text.parquet"), "context_length": 16},
        "model": {"name": str(folder / "model"), "dtype": "float32"},
        "harvest": {"hooks": ["model.layers.0"]},
        "sae": {"d_sae": 16, "k": 2},
        "train": {"tokens": 1600, "batch_tokens": 16, "workers": 1, "precision": "fp32"},
    }
    for section, more in changed.items():
        settings[section] = settings[section] | more
    return parse_config(settings)


def test_a_text_whose_tokens_are_there_is_not_looked_at(tmp_path: Path) -> None:
    config = of_text(tmp_path)
    at = addresses(config)
    with pytest.raises(InputError, match=r"text\.parquet"):
        corpus_of(config, at)
    assert at.tokens is not None
    write_manifest(at.tokens, {"n_sequences": {"train": 9, "eval": 1}})
    assert corpus_of(config, at) is None
