"""Where memory ends in a step it goes on in blocks of rows, and a run ends with the weights that it would have had."""

import json
import resource
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import Mesh, OneProcess
from tasks.sae.parameters import part_of, view
from tasks.train.config import TrainConfig
from tasks.train.curve import CurveRow
from tasks.train.loop import Run, train
from tasks.train.plan import Plan, plan
from tasks.train.resample import resample
from tasks.train.timing import accounts
from tasks.train.train_state import TrainState, initial_state, state_from
from tests.sae.test_gradients import identity
from tests.sae.threads import in_mesh
from tests.sampled import sampled
from tests.scarce_memory import ScarceMemory, on_a_cpu, on_a_gpu
from tests.together import together
from tests.train.test_mesh import D_IN, D_OUT, D_SAE, difference, resolved, settings, trained

STEPS, BATCH = 24, 128
WHOLE = BATCH * D_SAE * 8
"""Bytes of all rows' pre-activations in float64."""
LIMIT = 42_000
"""Less, and more than what else a step makes: matryoshka's gradients on what all groups decode to take 40,960."""


def planned(arch: str, d_out: int = D_IN, **others: object) -> Plan:
    return resolved(settings(arch, **others), d_out, tokens=STEPS * BATCH, batch_tokens=BATCH, dead_after_tokens=3 * BATCH)


def rows(p: Plan) -> Tensor:
    width = D_IN if p.layout.d_out == D_IN else D_IN + p.layout.d_out
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(STEPS, BATCH, 24, generator=generator, dtype=torch.float64)
    return codes.where(codes > 0.8, 0) @ torch.randn(24, width, generator=generator, dtype=torch.float64)


def ended(
    p: Plan, data: Tensor, mesh: Mesh | None = None, memory: ScarceMemory | None = None
) -> tuple[TrainState, list[CurveRow]]:
    """The state after all steps and the curve, of a worker that has so much memory."""
    mesh = mesh or OneProcess()
    whole = view(initial_state(p, data[:4].flatten(0, 1).float()).parameters.flat.double(), p.layout)
    run = Run(state_from(part_of(whole, mesh.latents.rank, mesh.latents.world_size), p))
    with memory or nullcontext():
        trained(p, data, mesh, run, shared=False)
    return run.state, run.curve


def assert_near(found: TrainState, expected: TrainState) -> None:
    assert difference(found.parameters.flat, expected.parameters.flat) < 1e-9
    assert torch.equal(found.silent, expected.silent)
    for name, buffer in expected.buffers.items():
        assert torch.allclose(found.buffers[name], buffer, rtol=1e-9), name


@pytest.mark.parametrize(("arch", "error"), sampled(product(NAMES, [on_a_cpu, on_a_gpu]), share=0.5))
def test_every_architecture_ends_with_the_weights_of_one_that_had_memory(arch, error) -> None:
    p, memory = planned(arch), ScarceMemory(LIMIT, error)
    data = rows(p)
    expected, curve = ended(p, data)
    found, its_curve = ended(p, data, memory=memory)
    assert memory.refused > 0
    assert found.scratch.most_rows == BATCH // 2
    assert_near(found, expected)
    for row, its in zip(curve, its_curve, strict=True):
        assert its.loss == pytest.approx(row.loss, rel=1e-8)
        assert its.l0 == row.l0


@pytest.mark.parametrize("arch", sampled(["topk", "jumprelu", "gated"]))
def test_transcoders_with_a_skip_path_too(arch: str) -> None:
    p = planned(arch, D_OUT, skip=True)
    data = rows(p)
    found, _ = ended(p, data, memory=ScarceMemory(LIMIT))
    assert found.scratch.most_rows == BATCH // 2
    assert_near(found, ended(p, data)[0])


@pytest.mark.parametrize("arch", sampled(["topk", "batchtopk", "jumprelu", "p_anneal", "l1_2023"], share=0.4))
def test_of_two_workers_with_half_the_rows_each_one_may_lack_memory(arch: str) -> None:
    p = planned(arch)
    data = rows(p)

    def work(mesh: Mesh) -> TrainState:
        return ended(p, data, mesh, ScarceMemory(WHOLE // 2 - 1) if mesh.data.rank == 1 else None)[0]

    rich, poor = in_mesh(2, 1, work)
    assert (rich.scratch.most_rows, poor.scratch.most_rows) == (None, BATCH // 4)
    assert torch.equal(poor.parameters.flat, rich.parameters.flat)
    assert_near(poor, ended(p, data)[0])


@pytest.mark.parametrize("arch", sampled(["topk", "batchtopk"]))
def test_of_two_workers_with_half_the_latents_each_one_may_lack_memory(arch: str) -> None:
    p = planned(arch)
    data = rows(p)

    def work(mesh: Mesh) -> TrainState:
        return ended(p, data, mesh, ScarceMemory(WHOLE // 2 - 1) if mesh.latents.rank == 1 else None)[0]

    rich, poor = in_mesh(1, 2, work)
    assert (rich.scratch.most_rows, poor.scratch.most_rows) == (None, BATCH // 2)
    expected = ended(p, data)[0].parameters
    for part, state in enumerate((rich, poor)):
        assert difference(state.parameters.flat, part_of(expected, part, 2).flat) < 1e-9


def test_a_dense_step_of_workers_that_hold_parts_of_the_latents_is_refused_in_a_sentence() -> None:
    p = planned("dense")
    data = rows(p)

    def work(mesh: Mesh) -> str:
        with pytest.raises(InputError) as raised:
            ended(p, data, mesh, ScarceMemory(WHOLE // 2 - 1))
        return str(raised.value)

    for told in in_mesh(1, 2, work):
        assert told.startswith(f"There is no memory for a step of {BATCH} rows over all latents")


def test_dead_latents_are_drawn_anew_in_blocks_too() -> None:
    p = planned("l1_2023")
    data = rows(p)[0].float()

    def drawn_anew(memory: ScarceMemory | None = None) -> TrainState:
        state = initial_state(p, data)
        dead, scaling = torch.arange(D_SAE) < 10, identity(D_IN, torch.float32)
        batch = StepBatch(raw=data, scaling=scaling, dead=dead, scratch=state.scratch)
        with memory or nullcontext():
            resample(state, batch, p, OneProcess())
        return state

    found = drawn_anew(ScarceMemory(WHOLE // 2 - 1))
    assert found.scratch.most_rows == BATCH // 2
    assert torch.allclose(found.parameters.flat, drawn_anew().parameters.flat, rtol=1e-6)


def test_a_run_s_account_multiplies_as_many_rows_at_once_as_there_was_memory_for() -> None:
    p = planned("topk")
    run = Run(initial_state(p, rows(p)[0].float()))
    run.timing.seconds = 1.0
    with ScarceMemory(BATCH // 2 * D_SAE * 4):
        with pytest.raises(RuntimeError, match="can't allocate"):
            accounts(run.timing, p, 1, None)
        found = accounts(run.timing, p, 1, None, most_rows=BATCH // 2)
    assert found["gemm_flop_per_second"] > 0


def _with_addresses_for_a_part_of_the_rows(rank: int, out: str) -> None:
    torch.set_num_threads(1)
    n_rows, d_sae, mebibyte = 4096, 8192, 2**20  # pre-activations of 128 MiB
    train_settings = {"tokens": 2 * n_rows, "batch_tokens": n_rows, "lanes": 4, "precision": "fp32", "lr": 0.003}
    p = plan(SAEConfig(arch="batchtopk", d_sae=d_sae, k=4), TrainConfig(**train_settings), D_IN)
    data = torch.randn(2, n_rows, D_IN, generator=torch.Generator().manual_seed(0))

    states = [initial_state(p, data[0]) for _ in range(2)]

    def end(state: TrainState) -> TrainState:
        return train(Run(state), data, p, identity(D_IN, torch.float32)).state

    expected = end(states[0])
    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    limit = taken + 90 * mebibyte
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = end(states[1])
    told = {"rows": found.scratch.most_rows, "difference": difference(found.parameters.flat, expected.parameters.flat)}
    Path(out, "told.json").write_text(json.dumps(told))


def test_a_process_whose_allocations_really_fail_goes_on_in_blocks(tmp_path: Path) -> None:
    together(_with_addresses_for_a_part_of_the_rows, str(tmp_path), world_size=1)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["rows"] in (512, 1024, 2048)
    assert told["difference"] < 1e-6
