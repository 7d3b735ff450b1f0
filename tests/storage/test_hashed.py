"""Inputs that cannot be hashed: addresses are refused in a sentence that names the setting and the file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.sources import source_identity
from tasks.lm.config import ModelConfig
from tasks.lm.files import model_identity
from tasks.storage import content
from tasks.text.config import TextConfig
from tasks.text.corpus import corpus_identity


def model(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "a.safetensors").write_bytes(b"a")
    return model_identity(ModelConfig(name=str(folder)))


def corpus(folder: Path) -> str:
    (folder / "a.txt").write_text("text")
    return corpus_identity(TextConfig(source=str(folder)))


def source(folder: Path) -> str:
    np.save(folder / "a.npy", np.eye(3))
    return source_identity(ActivationsConfig(source=str(folder / "a.npy")))


def labels(folder: Path) -> str:
    np.save(folder / "b.npy", np.eye(3))
    (folder / "a.labels").write_text("a")
    return source_identity(ActivationsConfig(source=str(folder / "b.npy"), labels=str(folder / "a.labels")))


INPUTS = {
    "model.name": model,
    "text.source": corpus,
    "activations.source": source,
    "activations.labels": labels,
}


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "none"), OSError(5, "Input/output error")]
)
@pytest.mark.parametrize("setting", INPUTS)
def test_a_file_that_cannot_be_read_is_named_with_its_setting(
    setting: str, error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: int) -> str:
        if Path(path).stem == "a":
            raise error
        return "0"

    monkeypatch.setattr(content, "_sha256", refuse)
    with pytest.raises(InputError, match=rf"^{setting}: .*/a\.") as refused:
        INPUTS[setting](tmp_path)
    assert "\n" not in str(refused.value)


def test_a_file_that_went_away_or_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "a.safetensors").unlink()
    os.symlink(tmp_path / "gone", tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match=r"^model\.name: there is no file '.*/a\.safetensors', or it leads to one that is not"
    ):
        model_identity(ModelConfig(name=str(tmp_path)))


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_a_hash_follows_the_content(make: Callable[[Path], str], tmp_path: Path) -> None:
    assert make(tmp_path) == make(tmp_path)
