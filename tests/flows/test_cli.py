import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from flows.commands import running
from flows.config import load_config
from flows.console import stdout_kept_clean
from flows.pipeline import Result
from tasks.errors import ArtifactError

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs/demo.yaml")
STORED = {
    "tokens": "/r/tokens/a",
    "activations": "/r/activations/b",
    "sae": "/r/saes/c",
    "scores": "/r/scores/d",
    "report": "/r/reports/e",
}
RESULT = Result(**STORED, summary={"fvu": 0.1})


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, str]]:
    """What the commands would run, which is not run."""
    seen: list[tuple[object, str]] = []

    def plain(config: object, until: str) -> Result:
        sys.stdout.write("a library's chatter")
        seen.append((config, until))
        return RESULT

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(running, "run_in_process", plain)
    return seen


def test_run_prints_the_path_of_the_report_and_nothing_else_on_stdout(
    given: list[tuple[object, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("run", DEMO) == 0
    out, err = capsys.readouterr()
    assert out == "/r/reports/e/index.html\n"
    assert "chatter" in err


def test_json_is_one_object_alone_on_stdout(given: list[tuple[object, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", DEMO, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["tokens", "activations", "sae", "scores", "report", "summary"]
    assert found["summary"] == {"fvu": 0.1}


@pytest.mark.parametrize("command", ["harvest", "train", "score", "report"])
def test_each_stage_is_run_with_what_it_needs(command: str, given: list[tuple[object, str]]) -> None:
    assert exit_code(command, DEMO) == 0
    assert [until for _, until in given] == [command]


def test_set_and_storage_change_the_settings(given: list[tuple[object, str]]) -> None:
    overrides = ["sae.k=16", "train.lr=1e-3", "harvest.hooks=[model.layers.2, model.layers.4]", "text.max_tokens="]
    assert exit_code("run", DEMO, "--storage", "s3://bucket/x", *(p for text in overrides for p in ("--set", text))) == 0
    expected = load_config(DEMO, overrides, "s3://bucket/x")
    assert given == [(expected, "report")]
    assert expected.sae.k == 16
    assert expected.train.lr == 0.001
    assert expected.harvest.hooks == ["model.layers.2", "model.layers.4"]
    assert expected.text.max_tokens is None


def raising(error: BaseException) -> object:
    def plain(config: object, until: str) -> Result:
        raise error

    return plain


def test_a_damaged_artifact_is_one_sentence_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "run_in_process", raising(ArtifactError("x/manifest.json is not valid JSON.")))
    assert exit_code("run", DEMO) == 2
    assert capsys.readouterr().err == "saemill: x/manifest.json is not valid JSON.\n"


def test_an_error_that_ray_wrapped_is_told_without_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = ArtifactError("ray::task() (pid=1)\n  Traceback ...")
    wrapped.cause = ArtifactError("shard 3 is damaged.")  # type: ignore[attr-defined]
    monkeypatch.setattr(running, "run_in_process", raising(wrapped))
    assert exit_code("run", DEMO) == 2
    assert capsys.readouterr().err == "saemill: shard 3 is damaged.\n"


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_in_process", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["run", DEMO])


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "run_in_process", lambda config, until: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGTERM)
    # As at a terminal: a shell that starts the tests in the background has SIGINT ignored.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert exit_code("run", DEMO, "--set", "sae.k=8") == code
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert f"saemill run {DEMO} --set sae.k=8" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.startswith("saemill 0.")


def test_the_command_line_starts_without_prefect_ray_and_torch() -> None:
    script = "import sys, flows.cli; print([m for m in ('prefect', 'ray', 'torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_python_files_and_children_write_is_kept_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_kept_clean():
        sys.stdout.write("python\n")
        os.write(1, b"descriptor\n")
        subprocess.run(["echo", "child"], check=True)
    sys.stdout.write("result\n")
    out, err = capfd.readouterr()
    assert out == "result\n"
    assert {"python", "descriptor", "child"} <= set(err.split())
