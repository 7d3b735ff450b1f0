"""A sweep in a real Ray Train job: two workers, one of which is killed, and the SAEs that each would be alone."""

import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows.addresses import addresses
from flows.config import parse_config
from tasks.progress import Progress, silent
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store
from tasks.train.finish import SAE_FILES
from tasks.train.sweep.ray_sweep import train_sweep
from tasks.train.worker import Worker
from tests.composed import members, run_of, run_settings, targets
from tests.kills.processes import WORKER, titled
from tests.turns import kills_a_training

pytestmark = pytest.mark.ray


@kills_a_training
def test_a_sweep_whose_worker_is_killed_ends_with_the_saes_of_single_runs(ray_cluster, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"tensorboard": "events", "tokens": 32 * 1000, "workers": 2, "checkpoint_every_tokens": 32 * 100}
    config, activations = tiny_run(**settings)
    sweep = {"lr": [0.01, 1e30], "archs": ["topk", "jumprelu"], "seeds": [0, 1]}
    config = parse_config({**config.model_dump(mode="json"), "sweep": sweep})
    chosen = [member for member in members(config) if member.values["lr"] == 0.01 or member.values["seed"] == 0][:5]
    outs = [addresses(run_of(config, member)).sae for member in chosen]
    killed: list[int] = []
    heard: list[Progress] = []

    def kill_one(progress: Progress) -> None:
        heard.append(progress)
        if not killed and any(Path(out, "checkpoints").is_dir() for out in outs):
            killed.append(titled(WORKER)[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    given = targets(config, chosen, outs)
    train_sweep(run_settings(config), given, activations, str(tmp_path / "sweeps/tiny"), kill_one)
    assert killed
    assert (heard[-1].done, heard[-1].total) == (5 * 32000, 5 * 32000)
    finished = [read_manifest(out) is not None for out in outs]
    assert finished == [member.values["lr"] == 0.01 for member in chosen]
    assert finished.count(True) == 4
    for i, (member, out) in enumerate(zip(chosen, outs, strict=True)):
        if finished[i]:
            single = Worker(given[i].config, activations, f"{tmp_path}/alone/{i}", OneProcess())
            single.finish(single.train())
            for name in SAE_FILES:
                assert open_store(out).get(name) == open_store(single.out).get(name), (member.label, name)
            events = EventAccumulator(f"{tmp_path}/events/{Path(out).name}")
            events.Reload()
            steps = [event.step for event in events.Scalars("train/fvu")]
            assert steps == pq.read_table(f"{out}/curve.parquet")["step"].to_pylist()
            assert json.loads(Path(out, "run.json").read_text())["tokens_per_second"] > 0

    before = {path: path.stat().st_mtime_ns for out in outs for path in Path(out).rglob("*") if path.is_file()}
    train_sweep(run_settings(config), given[:1], activations, str(tmp_path / "sweeps/tiny"), silent)  # finished earlier
    assert before == {path: path.stat().st_mtime_ns for path in before}
