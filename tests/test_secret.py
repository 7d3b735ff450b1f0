"""Secrets in addresses are refused where they would be stored, and masked where they would be shown."""

import io
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from rich.console import Console

from flows.cli import main
from flows.config import PipelineConfig, parse_config
from flows.console import OnConsole
from tasks.errors import InputError, SaemillError
from tasks.secret import holds_secret, masked

WORD = "hunter2/+X"
ADDRESSES = [
    f"http://user:{WORD}@host:5000/x",
    f"http://{WORD.replace('/', '')}@host",
    f"postgresql+psycopg2://me:{WORD}@db/mlflow",
    f"s3://AKIA:{WORD}@bucket/prefix",
    f"https://host/x?user=me&password={WORD}&x=1",
    f"sqlite:///x.db?Access_Key={WORD}",
    f"https://bucket.host/key?X-Amz-Signature={WORD}#part",
    f"s3://user:{WORD}{'y' * 300}@bucket",
    f"postgresql://u:p#{WORD}@h/db",
    f"postgresql+psycopg://mlflow:s3cr?{WORD}@db/mlflow",
    f"postgresql://u:pa'{WORD}@h/db",
    f'postgresql://u:pa"{WORD}@h/db',
    f"postgresql://o'neil:{WORD}@h/db",
    f"postgresql://me@azure:a/{WORD}@h:5432/db",
    f"s3://AKIA:12345/{WORD}@bucket/x",
    f"postgresql://u:9/{WORD}@h",
    f"http://u:p@{WORD}@h:5000/x",
    f"http://h:5000/x,s3://u:9/{WORD}@bucket",
    f"https://host/x?password=p#{WORD}&x=1",
    f"https://host/x?password=p'{WORD}",
]
SETTINGS = ["train.mlflow", "storage", "text.source", "activations.source", "model.name", "train.wandb", "ray.address"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_secret_is_masked_and_what_surrounds_it_stays(address: str) -> None:
    assert holds_secret(address)
    assert WORD.lstrip("/") not in masked(f"before {address} after")
    assert "hunter2" not in masked(f"'{address}'")
    assert masked(f"before {address} after").startswith("before ")
    assert masked(f"before {address} after").endswith(" after")


@pytest.mark.parametrize(
    "text",
    [
        *("http://host:5000/a@b", "s3://bucket/a@b", "user:password@host", "hf/model@main", "sqlite:///mlflow.db"),
        *("http://127.0.0.1:4200/api", "s3://b/x?y=1", "runs", "a: b @ c://d", "https://host/x?key=5"),
        *("http://[::1]:5000/a@b", "http://host:5000?user=me@x", "postgresql://db:5432/mlflow?user=me@x"),
        *("s3://bucket/a:b@c", '{"a":"http://host/x","b":"u@v"}', "C:/a:b@c"),
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert not holds_secret(text)
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a" * 50_000 + " ://x",
            "?" + "token" * 10_000 + ":/",
            "a://b:" * 8_000,
            "a:/" + "@" * 50_000,
            "x:/" * 16_000 + "@",
        ),
        *("a" * 50_000 + "://x@", "?a=" + "." * 50_000 + ":/x", "?a" * 25_000 + ":/", "http://h:1/" * 5_000 + "@"),
    ],
    ids=lambda text: text[:8],
)
def test_long_text_is_masked_at_once(text: str) -> None:
    begin = time.process_time()
    masked(text)
    assert time.process_time() - begin < 2, "it took a minute and more where time grew with the square of the length"


def nested(name: str, value: str) -> dict[str, Any]:
    group, _, last = name.rpartition(".")
    inner: dict[str, Any] = {last: value}
    return {"text": {"source": "x"}} | ({group: inner} if group else inner)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_settings_with_a_secret_are_refused_with_its_place_and_advice(name: str, address: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is .*into the environment: [A-Za-z]") as refused:
        parse_config(nested(name, address))
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ValidationError) as raw:  # what Prefect stores of a form that is filled wrongly
        PipelineConfig.model_validate(nested(name, address))
    assert "hunter2" not in str(raw.value)


def test_any_error_of_a_setting_beside_it_does_not_show_it() -> None:
    with pytest.raises(ValidationError) as raw:
        PipelineConfig.model_validate({"train": {"mlflow": [ADDRESSES[0]]}, ADDRESSES[1]: ADDRESSES[2]})
    assert "hunter2" not in str(raw.value)


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_command_line_never_shows_it(address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"train": {"mlflow": address}}))
    for arguments in (
        ["run", str(file)],
        ["status", "configs/toy.yaml", "--set", f"train.mlflow={address}"],
        ["status", "configs/toy.yaml", "--set", f"train.mlflow.x={address}"],
        ["status", "configs/toy.yaml", "--set", f"{address}=1"],
        ["status", "configs/toy.yaml", "--set", f"train.tokens={address}"],
        ["status", "configs/toy.yaml", "--storage", address],
        ["run", address],
        ["verify", address],
        ["hooks", address],
        ["encode", address, address, "--out", address],
        ["match", address, address, "--activations", address],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        said = capfd.readouterr()
        assert stopped.value.code == 2, arguments
        assert "hunter2" not in said.out + said.err, arguments


def test_errors_and_the_log_do_not_show_what_the_environment_holds() -> None:
    endpoint = ADDRESSES[0]
    assert "hunter2" not in str(SaemillError(f"The server at {endpoint} does not answer."))
    console = Console(file=io.StringIO())
    record = logging.LogRecord("tasks", logging.WARNING, "", 0, "retrying %s", (endpoint,), None)
    OnConsole(console).emit(record)
    assert console.file.getvalue().endswith("retrying http://***@host:5000/x\n")  # type: ignore[attr-defined] # a StringIO
