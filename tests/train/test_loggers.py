"""TensorBoard, MLflow and W&B for real, without a network: each holds the curve, after any kill, and is never in the way."""

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from flows.config import PipelineConfig
from flows.preflight import check
from tasks.errors import InputError
from tasks.storage.objects import open_store
from tasks.train import loggers
from tasks.train.checkpoint import newest_run, run_to_files
from tasks.train.checkpoint_names import checkpoint_name
from tasks.train.curve import CurveRow
from tasks.train.loggers import open_loggers, settings_of
from tasks.train.loggers.wandb import log_records
from tasks.train.loop import Run, ignore, train
from tasks.train.plan import plan
from tests.composed import run_settings
from tests.patience import PATIENCE_S, until
from tests.train.conftest import pipeline
from tests.train.test_loop import D_IN, SCALING, batches, start

ROOT = Path(__file__).parents[2]
HASH = "0123456789ab"
ALL = ("tensorboard", "mlflow", "wandb")
# MLflow 3.17 on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, nothing outside the tests' folder, and W&B's own process ended with the last test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        for name, value in {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "DO_NOT_TRACK": "true"}.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.delenv("WANDB_DIR", raising=False)
        yield
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()


def configured(folder: Path, *settings: str, **train: Any) -> PipelineConfig:
    values = {"tensorboard": "events", "mlflow": "sqlite:///mlflow.db", "wandb": "saes"}
    return pipeline(folder, **{name: values[name] for name in settings}, **train)


def go(
    config: PipelineConfig,
    folder: Path,
    also: Callable[[Run], None] = ignore,
    warn: Callable[[str], None] = pytest.fail,
) -> Run:
    """Train the tiny run at its address, from its newest checkpoint, as the worker of rank 0 does."""
    out = f"{folder}/saes/tiny-{HASH}"
    store, p = open_store(out), plan(config.sae, config.train, D_IN)
    run = newest_run(store, "checkpoints/", p) or start(p)

    def keep(run: Run) -> None:
        for name, data in run_to_files(run).items():
            store.put(f"checkpoints/{checkpoint_name(run.state.step)}/{name}", data)

    with open_loggers(run_settings(config), p, out, str(folder), warn) as log:

        def on_row(run: Run) -> None:
            log(run)
            also(run)

        return train(run, batches(p, run.state.step), p, SCALING, on_row=on_row, on_checkpoint=keep)


def killed(folder: Path, *settings: str, at: int = 18, **train: int) -> None:
    """The same in a process that dies as step ``at`` has been logged, on storage or on its way."""
    code = f"""
        import os, psutil, signal, time
        from pathlib import Path
        from tests.train.test_loggers import configured, go

        def die(run):
            if run.state.step == {at}:
                time.sleep(2)
                print(*[process.pid for process in psutil.Process().children(recursive=True)], flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        folder = Path({str(folder)!r})
        go(configured(folder, *{settings!r}, **{train!r}), folder, die)
    """
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # ours would be shared with it
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.run(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, check=False)
    assert process.returncode == -signal.SIGKILL
    until(lambda: not any(_lives(int(pid)) for pid in process.stdout.split()), "no library's process outlives ours")


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def curves_in(setting: str, folder: Path) -> Curves:
    found: Curves = {"tensorboard": _in_tensorboard, "mlflow": _in_mlflow, "wandb": _in_wandb}[setting](folder)
    return found


def _in_tensorboard(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / f"events/tiny-{HASH}"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _in_mlflow(folder: Path) -> Curves:
    client, run = _mlflow_run(folder)
    names = run.data.metrics
    return {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in names}


def _mlflow_run(folder: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("saemill").experiment_id])
    return client, run


def _in_wandb(folder: Path) -> Curves:
    found: Curves = defaultdict(list)
    for record in _wandb_records(folder):
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for name, value in values.items():
            if not name.startswith("_"):
                found[name].append((values["_step"], value))
    return dict(found)


def _wandb_records(folder: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob(f"wandb/offline-run-*-{HASH}/run-{HASH}.wandb")):
        yield from map(Record.FromString, log_records(path.read_bytes()))


def assert_shows(found: Curves, rows: list[CurveRow]) -> None:
    """Every figure of every row once and in order, to the precision of TensorBoard's float32."""
    figures = {f"train/{name}" for name in asdict(rows[0])} - {"train/step"}
    assert set(found) == figures | {"train/waiting"}
    for name in figures:
        expected = [(row.step, getattr(row, name.removeprefix("train/"))) for row in rows]
        assert [step for step, _ in found[name]] == [step for step, _ in expected], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in expected], rel=1e-6), name


@pytest.mark.parametrize("setting", ALL)
def test_the_library_holds_the_curve_and_the_settings(setting: str, tmp_path: Path) -> None:
    config = configured(tmp_path, setting)
    rows = go(config, tmp_path).curve
    found = curves_in(setting, tmp_path)
    assert len(rows) == 40
    assert_shows(found, rows)
    assert [step for step, _ in found["train/waiting"]] == list(range(1, 41))
    assert all(0 <= share <= 1 for _, share in found["train/waiting"])

    settings = {"train.lr": "0.01", "sae.d_in": "6", "plan.n_steps": "40", "train.tokens": "1280"}
    assert {name: _settings_in(setting, tmp_path)[name] for name in settings} == settings


def _settings_in(setting: str, folder: Path) -> dict[str, str]:
    if setting == "mlflow":
        run = _mlflow_run(folder)[1]
        assert run.info.status == "FINISHED"
        return dict(run.data.params)
    if setting == "wandb":
        updates = [record.run.config.update for record in _wandb_records(folder) if record.HasField("run")]
        return {item.key: item.value_json for update in updates for item in update}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / f"events/tiny-{HASH}"))
    events.Reload()
    (event,) = events.Tensors("settings/text_summary")
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    return dict(line.strip("| ").split(" | ", 1) for line in lines[2:] if line.count(" | ") == 1)


SHORT = {"at": 18}  # of 40 steps, with a checkpoint at 16
# W&B writes in blocks of 32 KiB, so that a short run would have nothing on disk yet.
LONG = {"at": 310, "tokens": 32 * 400, "checkpoint_every_tokens": 32 * 160}


@pytest.mark.parametrize(
    "setting, kill, checkpoint",
    [("tensorboard", SHORT, 16), ("mlflow", SHORT, 16), ("wandb", LONG, 160)],
    ids=ALL,
)
def test_after_a_kill_the_same_run_goes_on_without_doubled_or_lost_steps(
    setting: str, kill: dict[str, int], checkpoint: int, tmp_path: Path
) -> None:
    killed(tmp_path, setting, **kill)
    seen = curves_in(setting, tmp_path).get("train/loss", [])
    assert max(step for step, _ in seen) > checkpoint, "rows after the checkpoint were to be there already"
    train_settings = {name: value for name, value in kill.items() if name != "at"}
    rows = go(configured(tmp_path, setting, **train_settings), tmp_path).curve
    assert_shows(curves_in(setting, tmp_path), rows)


def test_a_row_of_events_that_a_kill_cut_short_is_logged_whole(tmp_path: Path) -> None:
    killed(tmp_path, "tensorboard", **SHORT)
    folder = tmp_path / f"events/tiny-{HASH}"
    writer: Any = SummaryWriter(str(folder))
    for name in ("tokens", "loss"):
        writer.add_scalar(f"train/{name}", 1.5, 19)
    writer.close()
    last = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    os.truncate(last, last.stat().st_size - 5)
    rows = go(configured(tmp_path, "tensorboard"), tmp_path).curve
    assert_shows(curves_in("tensorboard", tmp_path), rows)


def test_rows_that_died_in_wandb_s_own_process_are_logged_when_the_run_goes_on(tmp_path: Path) -> None:
    for attempt in range(5):  # on a busy machine W&B may come to write what it holds before it is killed
        folder = tmp_path / str(attempt)
        folder.mkdir()
        killed(folder, "wandb", **SHORT)
        if "train/loss" not in curves_in("wandb", folder):
            break
    else:
        pytest.skip("the machine is so busy that W&B had written its rows before it was killed, five times")
    rows = go(configured(folder, "wandb"), folder).curve
    assert_shows(curves_in("wandb", folder), rows)


@pytest.mark.parametrize("setting", ALL)
def test_a_logger_set_after_a_kill_gets_the_rows_before_it_too(setting: str, tmp_path: Path) -> None:
    killed(tmp_path)
    rows = go(configured(tmp_path, setting), tmp_path).curve
    found = curves_in(setting, tmp_path)
    assert_shows(found, rows)
    assert [step for step, _ in found["train/waiting"]] == list(range(17, 41))


@pytest.mark.parametrize("setting", ALL)
def test_a_missing_library_is_refused_by_name_before_anything_is_written(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, setting)
    monkeypatch.setitem(sys.modules, setting, None)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=rf"train\.{setting} is set but .* pip install 'saemill\[{setting}\]'"):
        check(config)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_the_library_s_name_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B writes to ./wandb, which Python would import as a package without anything in it."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "PathFinder" in repr(finder)])
    with pytest.raises(InputError, match=r"pip install 'saemill\[wandb\]'"):
        check(configured(tmp_path, "wandb"))


def test_what_is_logged_where_changes_no_address(tmp_path: Path) -> None:
    assert configured(tmp_path, *ALL).train.recipe() == configured(tmp_path).train.recipe()


def test_addresses_of_loggers_which_may_hold_passwords_are_not_logged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.mlflow .*MLFLOW_TRACKING_PASSWORD") as refused:
        pipeline(tmp_path, mlflow="https://me:s3cr3t@host/")
    assert "s3cr3t" not in str(refused.value)
    config = pipeline(tmp_path, mlflow="https://somewhere/")
    settings = settings_of(run_settings(config), plan(config.sae, config.train, D_IN))
    assert settings["train.workers"] == 1
    assert "somewhere" not in json.dumps(settings)


WRONG = {
    "tensorboard": ({"tensorboard": "rows.npy"}, "NotADirectoryError|FileExistsError"),
    "mlflow": ({"mlflow": "nowhere://host/x"}, "nowhere"),
    "a store of files, which MLflow has given up": ({"mlflow": "mlruns"}, "maintenance mode"),
    "wandb": ({"wandb": "a/b"}, "a/b"),
}


@pytest.mark.parametrize("settings, named", WRONG.values(), ids=WRONG)
def test_what_a_library_refuses_is_refused_at_the_start(settings: dict[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"train\.{next(iter(settings))} is '.*({named})"):
        go(pipeline(tmp_path, **settings), tmp_path)
    assert not (tmp_path / "saes").exists()


def test_wandb_without_a_key_is_refused_at_once_where_it_is_not_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    import wandb

    wandb.teardown()  # it may have read its variables already
    with pytest.raises(InputError, match=r"train\.wandb is 'saes' but cannot be logged to: .*No API key"):
        go(configured(tmp_path, "wandb"), tmp_path)
    wandb.teardown()


def test_a_server_that_does_not_answer_is_refused_at_the_start_but_ends_no_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path)
    monkeypatch.setattr(loggers.background, "OPEN_S", 1.0)
    warnings: list[str] = []
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = pipeline(tmp_path, mlflow=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert go(config, tmp_path, warn=warnings.append).state.step == 40
        (tmp_path / "new").mkdir()
        with pytest.raises(InputError, match=r"train\.mlflow is 'http://127.*did not answer within 1 s"):
            go(config, tmp_path / "new")
    assert len(warnings) == 1
    assert warnings[0].endswith("did not answer within 1 s. Training goes on without it.")


def break_tensorboard(folder: Path) -> None:
    """A full disk: no file may grow past what the events have."""
    (path,) = (folder / "events").rglob("events.out*")
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, resource.RLIM_INFINITY))


def break_mlflow(folder: Path) -> None:
    """The server's database loses a table."""
    database = sqlite3.connect(folder / "mlflow.db")
    database.execute("DROP TABLE metrics")
    database.commit()
    database.close()


def break_wandb(folder: Path) -> None:
    """W&B's own process, a child of this one, dies."""
    for process in psutil.Process().children(recursive=True):
        if process.name() == "wandb-core":
            process.kill()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # in a thread of TensorBoard's own
@pytest.mark.parametrize("setting", ALL)
def test_a_logger_that_breaks_is_dropped_with_one_warning_and_the_weights_are_the_same(setting: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    undisturbed = go(configured(tmp_path / "plain"), tmp_path / "plain")
    config, warnings, done = configured(tmp_path, setting), list[str](), threading.Event()
    broken = {"tensorboard": break_tensorboard, "mlflow": break_mlflow, "wandb": break_wandb}[setting]

    def warn(message: str) -> None:
        warnings.append(message)
        done.set()

    def disturb(run: Run) -> None:
        if run.state.step == 10:
            time.sleep(1)
            broken(tmp_path)
        if run.state.step == 30:
            done.wait(PATIENCE_S)

    p, soft = plan(config.sae, config.train, D_IN), resource.getrlimit(resource.RLIMIT_FSIZE)
    run = start(p)
    try:
        with open_loggers(run_settings(config), p, f"{tmp_path}/saes/tiny-{HASH}", str(tmp_path), warn) as log:

            def on_row(run: Run) -> None:
                log(run)
                disturb(run)

            train(run, batches(p), p, SCALING, on_row=on_row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
        if setting == "wandb":
            with suppress(ConnectionError):  # has W&B start another process for the next test
                sys.modules["wandb"].teardown()
    assert len(warnings) == 1
    assert warnings[0].startswith(f"train.{setting} failed and is dropped, training goes on: ")
    assert torch.equal(run.state.parameters.flat, undisturbed.state.parameters.flat)


class Stuck:
    """A logger whose server takes rows and never answers."""

    def __init__(self, *_: object) -> None:
        self.released = threading.Event()

    def log(self, row: CurveRow, waiting: float | None) -> None:
        self.released.wait(60)

    def close(self, failed: bool) -> None:
        """Nothing is open."""


def test_a_logger_that_hangs_holds_up_neither_steps_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, warnings = Stuck(), list[str]()
    monkeypatch.setitem(loggers.LOGGERS, "wandb", lambda *_: stuck)
    monkeypatch.setattr(loggers.background, "CLOSE_S", 0.2)
    began = time.monotonic()
    assert go(configured(tmp_path, "wandb"), tmp_path, warn=warnings.append).state.step == 40
    assert time.monotonic() - began < 30
    assert warnings == ["train.wandb did not take the last rows within 0.2 s; training ends without it."]
    stuck.released.set()


def test_a_run_that_fails_is_shown_as_failed_and_then_as_going_on_to_its_end(tmp_path: Path) -> None:
    config = configured(tmp_path, "mlflow")

    def fail(run: Run) -> None:
        if run.state.step == 18:
            raise InputError("as a loss that is not finite would")

    with pytest.raises(InputError):
        go(config, tmp_path, fail)
    assert _mlflow_run(tmp_path)[1].info.status == "FAILED"
    rows = go(config, tmp_path).curve
    assert _mlflow_run(tmp_path)[1].info.status == "FINISHED"
    assert_shows(curves_in("mlflow", tmp_path), rows)
