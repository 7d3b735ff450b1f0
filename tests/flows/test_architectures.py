import json
from dataclasses import fields

import pytest

from flows.architectures import described
from flows.cli import main
from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig

COMMON = {"arch", "d_in", "d_sae", "skip", "b_dec"}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["architectures", *arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_every_architecture_has_a_line_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split("\t") for line in printed(capsys).splitlines()]
    assert [line[0] for line in lines] == list(NAMES)
    assert lines[0][2] == "k k_start aux_k aux_coefficient"


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, "--json")) == {"architectures": described()}


def test_every_setting_of_an_sae_is_read_by_all_architectures_or_named_with_those_that_read_it() -> None:
    named = {setting for one in described() for setting in one["settings"]}
    assert named | COMMON == {field.name for field in fields(SAEConfig)}
    assert not named & COMMON
