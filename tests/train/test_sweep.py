"""Many SAEs from one pass over the activations: which they are, who trains them, and that each is the one trained alone."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.addresses import addresses
from flows.config import PipelineConfig, parse_config
from tasks.activations.loader.lane_reader import LaneReader
from tasks.errors import InputError
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import checkpoint_name, kept
from tasks.train.finish import SAE_FILES, close
from tasks.train.loop import Run, StoppedError, ignore
from tasks.train.sweep.members import packed, require_memory, state_bytes
from tasks.train.sweep.together import train_together
from tasks.train.worker import Worker
from tests.composed import members, run_of, run_settings
from tests.train.conftest import pipeline
from tests.train.test_resume import assert_equal_bits, keep

GRID = {"archs": ["topk", "l1"], "d_sae": [24, 40], "seeds": [0, 7]}


def swept(tmp_path: Path, **sweep: Any) -> PipelineConfig:
    config = pipeline(tmp_path)
    return parse_config({**config.model_dump(mode="json"), "sweep": sweep})


def test_members_are_the_product_of_the_lists_with_the_settings_of_runs_of_their_own(tmp_path):
    config = swept(tmp_path, **GRID, lr=[0.01, 0.003])
    found = members(config)
    assert len(found) == 16
    assert found[0].label == "topk, d_sae 24, lr 0.01, seed 0"
    assert found[-1].label == "l1, d_sae 40, lr 0.003, seed 7"
    last = pipeline(tmp_path, sae={"arch": "l1", "d_sae": 40}, lr=0.003, init_seed=7)
    assert run_of(config, found[-1]) == last
    expected = {"arch": "l1", "d_sae": 40, "k": 3, "l1_coefficient": None, "lr": 0.003, "seed": 7}
    assert found[-1].values == expected


def test_a_member_s_address_is_that_of_its_own_run_and_all_differ(tmp_path):
    config = swept(tmp_path, **GRID)
    found = [addresses(run_of(config, member)).sae for member in members(config)]
    alone = pipeline(tmp_path, sae={"arch": "topk", "d_sae": 40}, init_seed=7)
    assert found[3] == addresses(alone).sae
    assert len({*found}) == 8


def test_naming_the_seed_that_the_weights_have_anyway_changes_no_address(tmp_path):
    plain, named, other = (pipeline(tmp_path, seed=3, init_seed=seed) for seed in (None, 3, 4))
    assert addresses(plain) == addresses(named)
    assert addresses(plain).sae != addresses(other).sae
    assert "init_seed" not in plain.train.recipe()


def test_the_seed_of_the_weights_leaves_the_order_of_the_data(tiny_run, tmp_path):
    runs = []
    for seed in (None, 5):
        config, activations = tiny_run(init_seed=seed)
        worker = Worker(run_settings(config), activations, str(tmp_path / "sae"), OneProcess())
        runs.append((worker.start(), next(worker.batches(0))))
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0].state.parameters.W_dec, runs[1][0].state.parameters.W_dec)


@pytest.mark.parametrize(
    "sweep, sentence",
    [
        ({"archs": ["topk", "nosuch"]}, r"sweep, at nosuch: sae\.arch is 'nosuch' but must be one of"),
        ({"d_sae": [2, 24]}, r"sweep, at d_sae 2: sae\.k is 3 but must lie in 1\.\.2"),
        ({"k": [4, 4]}, r"sweep\.k is \[4, 4\] but must name each value once"),
        ({"k": [0]}, r"sweep\.k\.0 is 0 but must be at least 1\."),
        ({"lr": [-1.0]}, r"sweep\.lr\.0 is -1\.0 but must be above 0\."),
        ({"ks": [4]}, r"Unknown setting 'sweep\.ks'; did you mean sweep\.k "),
    ],
)
def test_nonsense_is_refused(sweep, sentence, tmp_path):
    with pytest.raises(InputError, match=f"^{sentence}"):
        swept(tmp_path, **sweep)


def test_a_sweep_without_lists_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"The sweep is empty: give one of sweep\.archs, sweep\.d_sae"):
        members(pipeline(tmp_path))


def test_latents_cut_into_shards_are_refused(tmp_path):
    config = swept(tmp_path, k=[3])
    config = config.model_copy(update={"train": config.train.model_copy(update={"latent_shards": 2})})
    with pytest.raises(InputError, match=r"train\.latent_shards is 2, but a sweep trains each SAE whole"):
        members(config)


def test_wandb_which_shows_one_run_per_process_is_refused(tmp_path):
    config = swept(tmp_path, k=[3])
    config = config.model_copy(update={"train": config.train.model_copy(update={"wandb": "project"})})
    with pytest.raises(InputError, match=r"train\.wandb is set, but W&B shows one run per process"):
        members(config)


def test_packs_are_even_and_hold_each_member_once():
    packs = packed([4608, 1152, 2304, 1152, 4608, 1152, 2304, 1152], 2)
    assert sorted(index for pack in packs for index in pack) == list(range(8))
    assert [sum([4608, 1152, 2304, 1152, 4608, 1152, 2304, 1152][i] for i in pack) for pack in packs] == [9216, 9216]
    assert packed([1.0, 1.0], 5) == [[0], [1]]


def test_saes_that_do_not_fit_the_machines_are_refused(tmp_path):
    assert state_bytes(pipeline(tmp_path).sae, 6, 6) == 4 * 4 * (24 * 6 * 2 + 24 + 6)
    require_memory([3, 3], [6])
    require_memory([2**50], [])
    with pytest.raises(InputError, match=r"need 4 GiB together .* but the machines have 3 GiB"):
        require_memory([2**31, 2**31], [3 * 2**30])
    with pytest.raises(InputError, match=r"need 3 GiB on one worker .* no machine has more than 2 GiB"):
        require_memory([3 * 2**30], [2**31, 2**31])


def worker_of(config: PipelineConfig, index: int, activations: str) -> Worker:
    """Who trains a member of the sweep, at the address of a run of its own."""
    config = run_of(config, members(config)[index])
    return Worker(run_settings(config), activations, addresses(config).sae, OneProcess())


def together(
    config: PipelineConfig, activations: str, on_row: Any = None
) -> tuple[list[Worker], list[Run | None], list[str]]:
    """The members of a sweep trained by one worker; their runs (None: did not end) and what was wrong with them."""
    workers = [worker_of(config, index, activations) for index in range(len(members(config)))]
    runs: list[Run | None] = [None] * len(workers)
    faults: list[str] = []

    def end(index: int, run: Run) -> None:
        worker = workers[index]
        close(worker.config, activations, worker.out, worker.finish(run), {})
        runs[index] = run

    train_together(workers, on_row or ignore_two, end, lambda index, error: faults.append(f"{index}: {error}"))
    return workers, runs, faults


def ignore_two(_index: int, _run: Run) -> None: ...


def alone(worker: Worker, activations: str, out: str) -> Run:
    """The same SAE trained by itself."""
    single = Worker(worker.config, activations, out, OneProcess())
    run = single.train(ignore, lambda run: keep(out, run))
    close(single.config, activations, out, single.finish(run), {})
    return run


def test_each_member_ends_with_the_bits_and_the_files_that_it_has_alone(tiny_run, tmp_path):
    _, activations = tiny_run()
    config = swept(tmp_path, archs=["topk", "jumprelu", "l1_2023"], d_sae=[24, 40], seeds=[0, 7])
    workers, runs, faults = together(config, activations)
    assert len(workers) == 12
    assert faults == []
    for i, (worker, run) in enumerate(zip(workers, runs, strict=True)):
        out = f"{tmp_path}/alone/{i}"
        assert run is not None
        assert_equal_bits(run, alone(worker, activations, out))
        for name in (*SAE_FILES, "manifest.json"):
            assert open_store(worker.out).get(name) == open_store(out).get(name), name


def test_a_batch_is_read_once_for_all_members(tiny_run, tmp_path, monkeypatch):
    _, activations = tiny_run()
    asked: list[tuple[int, int]] = []
    batches = LaneReader.batches

    def counted(self: LaneReader, first_step: int, n_steps: int) -> Any:
        asked.append((first_step, n_steps))
        return batches(self, first_step, n_steps)

    monkeypatch.setattr(LaneReader, "batches", counted)
    together(swept(tmp_path, k=[2, 3, 4]), activations)
    assert sorted(asked) == [(0, 19), (0, 40)]  # the rows that the initial weights are drawn from, and the stream


class KilledError(Exception):
    """Stands for a process that ends at once."""


def test_members_stopped_at_different_steps_end_with_the_bits_of_undisturbed_ones(tiny_run, tmp_path):
    config, activations = tiny_run(checkpoint_every_tokens=5 * 32, keep_checkpoints=2)
    config = parse_config({**config.model_dump(mode="json"), "sweep": {"k": [2, 3], "seeds": [0, 1]}})

    def kill(index: int, run: Run) -> None:
        if index == 1 and run.state.step == 15:  # member 0 has a checkpoint at 15 by now, the others have at 10
            raise KilledError

    with pytest.raises(KilledError):
        together(config, activations, kill)
    outs = [addresses(run_of(config, member)).sae for member in members(config)]
    steps = [[int(folder[-12:]) for folder in kept(open_store(out), "checkpoints/")] for out in outs]
    assert steps == [[10, 15], [5, 10], [5, 10], [5, 10]]
    cut = Path(outs[2], "checkpoints", checkpoint_name(10), "state.safetensors")
    cut.write_bytes(cut.read_bytes()[:100])  # this one has to go on from 5

    workers, runs, _ = together(config, activations)
    for i, (worker, run) in enumerate(zip(workers, runs, strict=True)):
        assert run is not None
        assert_equal_bits(run, alone(worker, activations, f"{tmp_path}/alone/{i}"))
        assert sorted(os.listdir(f"{worker.out}/checkpoints")) == [checkpoint_name(35), checkpoint_name(40)]


def test_a_sweep_told_to_stop_saves_every_member_where_it_is(tiny_run, tmp_path):
    config, activations = tiny_run(checkpoint_every_tokens=40 * 32)
    config = parse_config({**config.model_dump(mode="json"), "sweep": {"k": [2, 3]}})
    workers = [worker_of(config, index, activations) for index in range(2)]
    batches = iter(range(40))
    with pytest.raises(StoppedError):
        train_together(workers, ignore_two, ignore_two, ignore_two, lambda: next(batches) == 16)
    assert [os.listdir(f"{worker.out}/checkpoints") for worker in workers] == [[checkpoint_name(17)]] * 2


def test_a_single_run_goes_on_from_a_member_s_checkpoint(tiny_run, tmp_path):
    config, activations = tiny_run(checkpoint_every_tokens=5 * 32)
    config = parse_config({**config.model_dump(mode="json"), "sweep": {"k": [2, 3]}})

    def kill(index: int, run: Run) -> None:
        if run.state.step == 22:
            raise KilledError

    with pytest.raises(KilledError):
        together(config, activations, kill)
    member = worker_of(config, 1, activations)
    assert member.start().state.step == 20
    assert_equal_bits(member.train(), alone(member, activations, str(tmp_path / "alone")))


def test_a_member_whose_loss_is_not_finite_leaves_the_others_as_they_are(tiny_run, tmp_path):
    _, activations = tiny_run()
    workers, runs, faults = together(swept(tmp_path, lr=[1e30, 0.01]), activations)
    assert runs[0] is None
    assert read_manifest(workers[0].out) is None
    assert len(faults) == 1
    assert faults[0].startswith("0: The training ")
    assert "Lower train.lr" in faults[0]
    assert runs[1] is not None
    assert_equal_bits(runs[1], alone(workers[1], activations, str(tmp_path / "alone")))
