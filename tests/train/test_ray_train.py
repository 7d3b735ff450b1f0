"""Ray Train for real: two workers, checkpoints on storage, refusals, and runs that are told to stop.

Kills are in test_kill_matrix.py, and in test_end_to_end.py with a cluster of the run's own.
"""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.errors import InputError, SaemillError
from tasks.progress import Progress, silent
from tasks.sae import load
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store
from tasks.train.checkpoint import write_run
from tasks.train.worker import Worker
from tests.composed import run_settings, train
from tests.kills.processes import CONTROLLER, titled
from tests.patience import until
from tests.turns import kills_a_training

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def _shared(ray_cluster) -> None:
    """One cluster for the tests of this file that do not bring their own."""


def test_two_workers_train_the_sae_of_one_and_write_it_whole(_shared, tiny_run, tmp_path):
    config, activations = tiny_run(workers=2)
    out, heard = str(tmp_path / "saes"), list[Progress]()
    train(config, activations, out, heard.append)

    alone = Worker(run_settings(config), activations, str(tmp_path / "alone"), OneProcess())
    alone.finish(alone.train())
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 3
    assert torch.allclose(load(out).encode(rows), load(str(tmp_path / "alone")).encode(rows), atol=2e-3)

    manifest = read_manifest(out)
    assert manifest is not None
    assert set(manifest["objects"]) == {"sae.safetensors", "config.json", "curve.parquet"}
    assert pq.read_table(f"{out}/curve.parquet")["tokens"].to_pylist()[-1] == 1280
    run = json.loads(Path(out, "run.json").read_text())
    assert run["tokens_per_second"] > 0
    assert run["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (heard[-1].done, heard[-1].total) == (1280, 1280)
    assert set(heard[-1].numbers) == {"loss", "fvu", "l0", "dead_fraction", "lr", "waiting"}


def test_rows_get_to_loggers_and_a_logger_s_failure_to_who_started_the_run(_shared, tiny_run, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    config, activations = tiny_run(tensorboard="events", mlflow="nowhere://x")
    out = f"{tmp_path}/saes/tiny-{'1' * 12}"
    half = Path(out, "checkpoints/step-000000000001/state.json")  # a begun run is not refused for its loggers
    half.parent.mkdir(parents=True)
    half.write_text("{}")
    train(config, activations, out, silent)
    events = EventAccumulator(str(tmp_path / f"events/tiny-{'1' * 12}"))
    events.Reload()
    curve = pq.read_table(f"{out}/curve.parquet")
    assert [event.step for event in events.Scalars("train/fvu")] == curve["step"].to_pylist()
    heard = [record.getMessage() for record in caplog.records if record.name == "tasks.train.job.ray_job"]
    assert len(heard) == 1
    assert heard[0].startswith("train.mlflow is 'nowhere://x' but cannot be logged to: ")


def test_two_workers_with_half_the_latents_each_train_the_sae_of_one_too(_shared, tiny_run, tmp_path):
    config, activations = tiny_run(workers=2, latent_shards=2, checkpoint_every_tokens=640)
    out = str(tmp_path / "saes")
    train(config, activations, out, silent)
    alone = Worker(run_settings(config), activations, str(tmp_path / "alone"), OneProcess())
    alone.finish(alone.train())
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 3
    assert torch.allclose(load(out).encode(rows), load(str(tmp_path / "alone")).encode(rows), atol=2e-3)
    parts = {path.name for path in Path(out).glob("checkpoints/step-*/state.*")}
    assert parts == {f"state.{part}-of-2.{kind}" for part in (0, 1) for kind in ("json", "safetensors")}
    run = json.loads(Path(out, "run.json").read_text())
    assert run["sent_bytes_per_step"] > 0
    assert 0 < run["exchange_share"] < 1


def test_a_finished_run_is_left_alone(tiny_run, tmp_path):
    config, activations = tiny_run()
    out = str(tmp_path / "saes")
    Path(out).mkdir()
    Path(out, "manifest.json").write_text("{}")
    train(config, activations, out, silent)
    assert os.listdir(out) == ["manifest.json"]


def test_more_workers_than_the_cluster_has_cpus_are_refused_at_once(_shared, tiny_run, tmp_path):
    config, activations = tiny_run(workers=4, cpus_per_worker=2)
    with pytest.raises(InputError, match=r"train\.workers is 4 with 2 CPUs each.*cluster has 4 CPUs"):
        train(config, activations, str(tmp_path / "saes"), silent)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_gpus_that_the_cluster_does_not_have_are_refused_at_once(_shared, tiny_run, tmp_path):
    config, activations = tiny_run(use_gpu=True)
    with pytest.raises(InputError, match=r"train\.use_gpu is on.*has 0 GPUs"):
        train(config, activations, str(tmp_path / "saes"), silent)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_a_run_that_began_on_gpus_goes_on_without_them_only_where_that_is_said(_shared, tiny_run, tmp_path, caplog):
    config, activations = tiny_run()
    out = tmp_path / "saes"
    begun = Worker(run_settings(config), activations, str(out), OneProcess())
    begun.train(on_checkpoint=lambda run: write_run(run, open_store(str(out)), "checkpoints/", keep=1))
    for facts in out.glob("checkpoints/step-*/state.json"):
        facts.write_text(facts.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    with pytest.raises(InputError, match=r"This training began on GPUs, but the Ray cluster has 0"):
        train(config, activations, str(out), silent)
    said, _ = tiny_run(use_gpu=False)
    with caplog.at_level("INFO", "tasks.train.job.ray_device"):
        train(said, activations, str(out), silent)
    assert "training: on CPUs from here, as train.use_gpu says; up to its last checkpoint it was on GPUs" in caplog.text
    assert read_manifest(str(out)) is not None


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_without_restarts(_shared, tiny_run, tmp_path):
    config, activations = tiny_run(lr=1e30)
    with pytest.raises(InputError, match=r"The training loss is (nan|inf) at step \d+ of 40"):
        train(config, activations, str(tmp_path / "saes"), silent)


class StoppedError(Exception):
    """Stands for Ctrl-C, a Prefect cancellation or a timeout."""


def test_an_interrupted_driver_leaves_no_workers_behind(_shared, tiny_run, tmp_path):
    import ray

    config, activations = tiny_run(tokens=32 * 100_000, workers=2)

    def interrupt(progress: Progress) -> None:
        for process in titled(CONTROLLER):
            assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(), "it takes 2.4 s of CPU to import"
        raise StoppedError

    with pytest.raises(StoppedError):
        train(config, activations, str(tmp_path / "saes"), interrupt)
    until(lambda: ray.available_resources().get("CPU", 0) >= 4, "workers hold no CPUs any more")
    assert titled(CONTROLLER) == [], "a controller that is left takes the CPUs again"


class ToldToStop(BaseException):
    """Stands for what the handlers of Ctrl-C, SIGTERM and Prefect's cancellation raise."""


@kills_a_training
def test_a_run_told_to_stop_saves_first_and_goes_on_from_there_to_equal_bits(_shared, tiny_run, tmp_path):
    config, activations = tiny_run(tokens=32 * 1200, workers=2, checkpoint_every_tokens=32 * 1200)
    out = tmp_path / "stopped"

    def stop(progress: Progress) -> None:
        raise ToldToStop

    with pytest.raises(ToldToStop):
        train(config, activations, str(out), stop)
    (saved,) = out.glob("checkpoints/step-*")
    assert 0 < int(saved.name.removeprefix("step-")) < 1200
    assert read_manifest(str(out)) is None
    for folder in (out, tmp_path / "undisturbed"):
        train(config, activations, str(folder), silent)
    for name in ("sae.safetensors", "curve.parquet", "manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


@kills_a_training
def test_a_run_that_is_out_of_time_stops_with_a_checkpoint_and_a_word(_shared, tiny_run, tmp_path):
    config, activations = tiny_run(tokens=32 * 100_000, checkpoint_every_tokens=32 * 100_000, max_hours=1 / 3600)
    with pytest.raises(SaemillError, match=r"Training has taken train\.max_hours \(0\.000278\) and stops"):
        train(config, activations, str(tmp_path / "saes"), silent)
    (saved,) = (tmp_path / "saes").glob("checkpoints/step-*")
    assert 0 < int(saved.name.removeprefix("step-")) < 100_000


@pytest.mark.s3
def test_checkpoints_and_sae_go_to_a_bucket(s3, _shared, tiny_run, tmp_path):
    config, activations = tiny_run()
    out = f"{s3}/saes/tiny"
    train(config, activations, out, silent)
    assert load(out).d_sae == 24
