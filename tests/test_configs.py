"""Every example configuration can be run as it stands."""

from pathlib import Path

import pytest

from flows.addresses import addresses
from flows.config import load_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_examples_have_no_setting_that_does_not_exist(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_the_transcoder_and_the_crosscoder_share_one_harvest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    transcoder, crosscoder = (load_config(f"configs/{name}.yaml") for name in ("transcoder", "crosscoder"))
    assert addresses(transcoder).shards == addresses(crosscoder).shards
    assert transcoder.text == crosscoder.text
    assert (transcoder.roles.inputs, transcoder.roles.outputs) == (("model.layers.8.mlp:input",), ("model.layers.8.mlp",))
    assert crosscoder.roles.all == crosscoder.roles.outputs == ("model.layers.4", "model.layers.8", "model.layers.12")
