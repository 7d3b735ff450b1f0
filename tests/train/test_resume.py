"""Killed and started again, a run ends with the bits that it would have had undisturbed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import ArtifactError
from tasks.sae.architectures.names import NAMES
from tasks.sae.mesh import OneProcess
from tasks.storage.objects import open_store
from tasks.train.checkpoint import newest_run, read_run, run_to_files
from tasks.train.checkpoint_names import checkpoint_name
from tasks.train.loop import Run, StoppedError
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.patience import PATIENCE_S


class KilledError(Exception):
    """Stands for a process that ends at once."""


def keep(out: str, run: Run) -> None:
    for name, data in run_to_files(run).items():
        open_store(out).put(f"checkpoints/{checkpoint_name(run.state.step)}/{name}", data)


def train_to_the_end(config, activations: str, out: Path) -> Run:
    return Worker(run_settings(config), activations, str(out), OneProcess()).train(
        on_checkpoint=lambda run: keep(str(out), run)
    )


def assert_equal_bits(a: Run, b: Run) -> None:
    assert torch.equal(a.state.parameters.flat, b.state.parameters.flat)
    assert torch.equal(a.state.silent, b.state.silent)
    assert a.curve == b.curve
    assert all(torch.equal(m.flat, n.flat) for m, n in zip(a.state.moments, b.state.moments, strict=True))
    assert all(torch.equal(buffer, b.state.buffers[name]) for name, buffer in a.state.buffers.items())


@pytest.mark.parametrize("arch", NAMES)
@pytest.mark.parametrize("kill_at", [1, 13, 39])
def test_a_run_killed_at_any_step_ends_with_the_bits_of_an_undisturbed_one(arch, kill_at, tiny_run, tmp_path):
    config, activations = tiny_run(sae={"arch": arch}, checkpoint_every_tokens=5 * 32)
    undisturbed = train_to_the_end(config, activations, tmp_path / "one")

    def stop(run: Run) -> None:
        if run.state.step == kill_at:
            raise KilledError

    out = str(tmp_path / "two")
    with pytest.raises(KilledError):
        Worker(run_settings(config), activations, out, OneProcess()).train(
            on_row=stop, on_checkpoint=lambda run: keep(out, run)
        )
    assert_equal_bits(train_to_the_end(config, activations, tmp_path / "two"), undisturbed)


@pytest.mark.parametrize("arch", ["batchtopk", "gated"])
def test_a_run_told_to_stop_saves_where_it_is_and_ends_with_the_bits_of_an_undisturbed_one(arch, tiny_run, tmp_path):
    config, activations = tiny_run(sae={"arch": arch}, tokens=32 * 780)
    out = str(tmp_path / "two")
    worker = Worker(run_settings(config), activations, out, OneProcess())
    assert worker.plan.log_every == 3
    looks, saved = iter(range(100)), list[tuple[int, int]]()

    def save(run: Run) -> None:
        keep(out, run)
        saved.append((run.state.step, len(run.meter.steps)))

    with pytest.raises(StoppedError):
        worker.train(on_checkpoint=save, told_to_stop=lambda: next(looks) == 3)
    assert saved == [(32, 2)]  # between two rows of the curve
    assert os.listdir(tmp_path / "two/checkpoints") == [checkpoint_name(32)]
    undisturbed = train_to_the_end(config, activations, tmp_path / "one")
    assert_equal_bits(train_to_the_end(config, activations, tmp_path / "two"), undisturbed)


def test_a_process_killed_with_sigkill_goes_on_from_its_checkpoint(tiny_run, tmp_path):
    config, activations = tiny_run(checkpoint_every_tokens=5 * 32)
    undisturbed = train_to_the_end(config, activations, tmp_path / "one")
    out = tmp_path / "two"
    (tmp_path / "config.json").write_text(config.model_dump_json())
    code = f"""
        import os, signal
        from pathlib import Path
        from flows.config import PipelineConfig
        from tasks.sae.mesh import OneProcess
        from tasks.train.worker import Worker
        from tests.composed import run_settings
        from tests.train.test_resume import keep

        config = PipelineConfig.model_validate_json(Path({str(tmp_path / "config.json")!r}).read_text())
        kill = lambda run: os.kill(os.getpid(), signal.SIGKILL) if run.state.step == 22 else None
        worker = Worker(run_settings(config), {activations!r}, {str(out)!r}, OneProcess())
        worker.train(kill, lambda run: keep({str(out)!r}, run))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parents[2], timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGKILL
    assert sorted(os.listdir(out / "checkpoints"))[-1] == checkpoint_name(20)
    assert_equal_bits(train_to_the_end(config, activations, out), undisturbed)


def test_a_checkpoint_that_was_cut_short_is_passed_over(tiny_run, tmp_path, caplog):
    config, activations = tiny_run(checkpoint_every_tokens=5 * 32)
    out = tmp_path / "one"
    train_to_the_end(config, activations, out)
    plan = Worker(run_settings(config), activations, str(out), OneProcess()).plan
    cut = out / "checkpoints" / checkpoint_name(40) / "state.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="not the file"):
        read_run(open_store(str(out)), f"checkpoints/{checkpoint_name(40)}", plan)
    found = newest_run(open_store(str(out)), "checkpoints/", plan)
    assert found is not None
    assert found.state.step == 35
    assert f"{checkpoint_name(40)} is passed over" in caplog.text
    assert "not the file" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError, TypeError, AttributeError])
@pytest.mark.parametrize("where", ["tasks.train.checkpoint.state_from", "tasks.train.checkpoint.view", "torch.Tensor.copy_"])
def test_a_whole_checkpoint_that_this_machine_cannot_hold_is_not_passed_over(where, error, tiny_run, tmp_path, monkeypatch):
    """Training would begin again at an older step, or at the first one, without a word."""
    config, activations = tiny_run(checkpoint_every_tokens=20 * 32)
    train_to_the_end(config, activations, tmp_path / "one")
    plan = Worker(run_settings(config), activations, str(tmp_path / "one"), OneProcess()).plan

    def fail(*_: Any, **__: Any) -> None:
        raise error("CUDA out of memory")

    monkeypatch.setattr(where, fail)
    with pytest.raises(error):
        newest_run(open_store(str(tmp_path / "one")), "checkpoints/", plan)


def test_memory_that_does_not_hold_the_files_is_no_fault_of_the_checkpoint(tiny_run, tmp_path, monkeypatch):
    config, activations = tiny_run(checkpoint_every_tokens=20 * 32)
    train_to_the_end(config, activations, tmp_path / "one")
    plan = Worker(run_settings(config), activations, str(tmp_path / "one"), OneProcess()).plan

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("tasks.train.checkpoint_parts.tensors_from_bytes", fail)
    with pytest.raises(MemoryError):
        newest_run(open_store(str(tmp_path / "one")), "checkpoints/", plan)


@pytest.mark.parametrize("name, value", [("step", "1"), ("pending", [[1]]), ("curve", [{}]), ("spent", {"seconds": None})])
def test_facts_that_no_run_writes_are_refused_before_a_run_is_made_of_them(name, value, tiny_run, tmp_path):
    config, activations = tiny_run(checkpoint_every_tokens=20 * 32)
    train_to_the_end(config, activations, tmp_path / "one")
    plan = Worker(run_settings(config), activations, str(tmp_path / "one"), OneProcess()).plan
    facts = tmp_path / "one/checkpoints" / checkpoint_name(40) / "state.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {name: value}))
    with pytest.raises(ArtifactError, match="is not whole"):
        read_run(open_store(str(tmp_path / "one")), f"checkpoints/{checkpoint_name(40)}", plan)


def test_a_checkpoint_of_other_sizes_is_told_for_what_it_is(tiny_run, tmp_path):
    config, activations = tiny_run(checkpoint_every_tokens=20 * 32)
    train_to_the_end(config, activations, tmp_path / "one")
    larger, _ = tiny_run(checkpoint_every_tokens=20 * 32, sae={"d_sae": 48})
    plan = Worker(run_settings(larger), activations, str(tmp_path / "one"), OneProcess()).plan
    with pytest.raises(ArtifactError, match=r"its parameters is \[\d+\], but a run of these settings has"):
        read_run(open_store(str(tmp_path / "one")), f"checkpoints/{checkpoint_name(40)}", plan)


def test_where_nothing_was_kept_there_is_nothing_to_go_on_from(tiny_run, tmp_path):
    config, activations = tiny_run()
    plan = Worker(run_settings(config), activations, str(tmp_path / "new"), OneProcess()).plan
    assert newest_run(open_store(str(tmp_path / "new")), "checkpoints/", plan) is None
