"""Checkpoints are written beside the steps, one at a time, and hold the run as it was when they were begun."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.sae.architectures.names import NAMES
from tasks.storage.objects import open_store
from tasks.train.checkpoint import read_run, run_to_files
from tasks.train.checkpoint_writer import CheckpointWriter
from tasks.train.loop import Run, StoppedError, train
from tests.patience import PATIENCE_S
from tests.sampled import sampled
from tests.train.test_loop import SCALING, batches, start, tiny_plan
from tests.train.test_resume import assert_equal_bits

EVERY = 10


class StorageError(Exception):
    """Stands for storage that takes nothing."""


def refuse() -> None:
    raise StorageError


def saved(writer: CheckpointWriter, store: Callable[[Run], None]) -> Callable[[Run], None]:
    """What training calls at a checkpoint."""

    def on_checkpoint(run: Run) -> None:
        copied = writer.copy(run)
        writer.begin(lambda: store(copied()))

    return on_checkpoint


@pytest.mark.parametrize("arch", sampled(NAMES, at_least=4))
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_checkpoint_is_of_the_step_at_which_it_was_begun_though_steps_go_on(arch: str, ema_decay: float) -> None:
    p = tiny_plan(arch, checkpoint_every_tokens=32 * EVERY, ema_decay=ema_decay)
    at_once, beside = list[dict[str, bytes]](), list[dict[str, bytes]]()
    alone = train(start(p), batches(p), p, SCALING, on_checkpoint=lambda run: at_once.append(run_to_files(run)))
    beyond, run = threading.Event(), start(p)

    def write(copied: Run) -> None:
        assert beyond.wait(PATIENCE_S)  # until three steps later
        beside.append(run_to_files(copied))

    def on_row(run: Run) -> None:
        if run.state.step % EVERY == 3:
            beyond.set()

    with CheckpointWriter() as writer:
        save = saved(writer, write)

        def on_checkpoint(run: Run) -> None:
            writer.wait()
            if run.state.step != p.n_steps:
                beyond.clear()
            save(run)

        train(run, batches(p), p, SCALING, on_row=on_row, on_checkpoint=on_checkpoint)
    assert_equal_bits(run, alone)
    assert len(at_once) == len(beside) == 3
    for ours, theirs in zip(beside, at_once, strict=True):
        assert ours["state.safetensors"] == theirs["state.safetensors"]


def test_a_run_goes_on_from_what_was_written_beside_it(tmp_path: Path) -> None:
    p, store = tiny_plan("batchtopk", checkpoint_every_tokens=32 * EVERY), open_store(str(tmp_path))

    def write(copied: Run) -> None:
        for name, data in run_to_files(copied).items():
            store.put(f"{copied.state.step}/{name}", data)

    with CheckpointWriter() as writer:
        run = train(start(p), batches(p), p, SCALING, on_checkpoint=saved(writer, write))
    again = read_run(store, f"{EVERY}", p)
    assert len(again.curve) == EVERY
    assert_equal_bits(train(again, batches(p, EVERY), p, SCALING), run)


def test_one_checkpoint_is_written_at_a_time() -> None:
    going, order = threading.Event(), list[str]()

    def slow() -> None:
        assert going.wait(PATIENCE_S)
        order.append("first")

    with CheckpointWriter() as writer:
        writer.begin(slow)
        threading.Timer(0.05, going.set).start()
        writer.begin(lambda: order.append("second"))
        assert order[0] == "first"
    assert order == ["first", "second"]


def test_who_waits_is_told_how_long_it_took() -> None:
    going = threading.Event()
    with CheckpointWriter() as writer:
        writer.begin(lambda: None if going.wait(PATIENCE_S) else refuse())
        threading.Timer(0.05, going.set).start()
        assert writer.wait() > 0.01
        assert writer.wait() < 0.01


@pytest.mark.parametrize("when", ["look", "copy", "begin", "wait", "leave", "stop"])
def test_an_error_of_the_writer_reaches_the_run(when: str) -> None:
    p = tiny_plan()
    with pytest.raises(StorageError), CheckpointWriter() as writer:
        writer.begin(refuse)
        match when:
            case "look":
                while True:
                    writer.check()
            case "copy":
                writer.copy(start(p))
            case "begin":
                writer.begin(lambda: None)
            case "wait":
                writer.wait()
            case "stop":
                raise StoppedError


def test_looking_at_a_checkpoint_that_is_being_written_waits_for_nothing() -> None:
    going, done = threading.Event(), list[bool]()
    with CheckpointWriter() as writer:
        writer.check()
        writer.begin(lambda: done.append(going.wait(PATIENCE_S)))
        writer.check()
        assert done == []
        going.set()
    assert done == [True]


def test_a_run_that_stops_or_fails_leaves_when_its_checkpoint_is_there() -> None:
    for error in (StoppedError, KeyError):
        done, going = list[str](), threading.Event()

        def write(done: list[str] = done, going: threading.Event = going) -> None:
            assert going.wait(PATIENCE_S)
            done.append("written")

        with pytest.raises(error), CheckpointWriter() as writer:
            writer.begin(write)
            threading.Timer(0.05, going.set).start()
            raise error
        assert done == ["written"]


def test_a_run_s_own_error_comes_before_that_of_its_last_checkpoint() -> None:
    with pytest.raises(KeyError), CheckpointWriter() as writer:
        writer.begin(refuse)
        raise KeyError


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_gpu_s_state_is_copied_into_pinned_memory() -> None:
    p = tiny_plan()
    run = start(p)
    run.state.silent = run.state.silent.cuda()
    with CheckpointWriter() as writer:
        copied = writer.copy(run)()
    assert copied.state.silent.is_pinned()
