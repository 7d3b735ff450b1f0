"""A mesh of workers, by rows and by latents, takes the steps of one worker: in float64, to 1e-9 after many of them.

p_anneal takes fewer: the slope of f^p has no bound near 0, so that a last bit's difference grows to .002 in 200 steps.
"""

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import Mesh, OneProcess
from tasks.sae.parameters import joined, part_of, view
from tasks.sae.scaling import Scaling
from tasks.storage.objects import open_store
from tasks.train.checkpoint import newest_run, run_to_files
from tasks.train.checkpoint_names import checkpoint_name
from tasks.train.config import TrainConfig
from tasks.train.loop import Run, StoppedError, ignore, train
from tasks.train.plan import Plan, plan
from tasks.train.train_state import TrainState, initial_state, share_state, state_from
from tests.sae.threads import in_mesh
from tests.sampled import sampled

D_IN, D_OUT, D_SAE, STEPS, BATCH = 8, 6, 48, 200, 32
MESHES = [(2, 1), (1, 2), (2, 2), (1, 4)]


def settings(arch: str, **others: object) -> SAEConfig:
    return SAEConfig(**{"arch": arch, "d_sae": D_SAE, "k": 4, "aux_k": 5, "bandwidth": 0.5} | others)


def resolved(config: SAEConfig, d_out: int = D_IN, **train_settings: object) -> Plan:
    given = {"tokens": STEPS * BATCH, "batch_tokens": BATCH, "lanes": 4, "precision": "fp32", "lr": 0.003}
    return plan(config, TrainConfig(**{**given, "dead_after_tokens": 3 * BATCH, **train_settings}), D_IN, d_out)


def rows(p: Plan) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(p.n_steps, BATCH, 24, generator=generator, dtype=torch.float64)
    width = D_IN if p.layout.d_out == D_IN else D_IN + p.layout.d_out
    directions = torch.randn(24, width, generator=generator, dtype=torch.float64)
    return codes.where(codes > 0.8, 0) @ directions


def trained(
    p: Plan,
    data: Tensor,
    mesh: Mesh,
    run: Run | None = None,
    keep: Callable[[Run], None] = ignore,
    *,
    shared: bool = True,
) -> tuple[TrainState, list[object]]:
    """By one worker of a mesh, with the rows that are its to read, from the first step on or from where ``run`` is."""
    width, latents = data.shape[2], mesh.latents
    scaling = Scaling(torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64))
    if run is None:
        whole = initial_state(p, data[:8].flatten(0, 1).float()).parameters
        whole = view(whole.flat.double(), p.layout)
        run = Run(state_from(part_of(whole, latents.rank, latents.world_size), p))
    if shared:
        run.state = share_state(run.state, p, mesh)
        assert run.state.is_shared == (mesh.data.world_size > 1 and len(run.state.silent) % mesh.data.world_size == 0)
    worker, n_workers = mesh.data.rank * latents.world_size + latents.rank, mesh.data.world_size * latents.world_size
    own = [batch.chunk(n_workers)[worker] for batch in data[run.state.step :]]
    return train(run, own, p, scaling, mesh, on_checkpoint=keep).state, list(run.curve)


def assert_the_same(p: Plan, mesh: tuple[int, int], *, shared: bool = True) -> None:
    data = rows(p)
    alone, curve = trained(p, data, OneProcess())
    workers = in_mesh(*mesh, lambda mesh: trained(p, data, mesh, shared=shared))
    for worker, (state, its_curve) in enumerate(workers):
        expected = part_of(alone.parameters, worker % mesh[1], mesh[1])
        assert difference(state.parameters.flat, expected.flat) < 1e-9
        assert torch.equal(state.silent, alone.silent.chunk(mesh[1])[worker % mesh[1]])
        assert torch.equal(state.parameters.b_dec, workers[0][0].parameters.b_dec)  # no drift between workers
        for name, buffer in alone.buffers.items():
            assert torch.allclose(state.buffers[name], buffer, rtol=1e-9), name
        for row, its in zip(curve, its_curve, strict=True):
            for name in ("loss", "fvu", "l0", "dead_fraction", "grad_norm"):
                assert getattr(its, name) == pytest.approx(getattr(row, name), rel=1e-8), name


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("arch", "mesh"), sampled(product(NAMES, MESHES)))
def test_every_architecture_on_every_mesh_has_the_weights_of_one_worker(arch: str, mesh: tuple[int, int]) -> None:
    steps = 60 if arch == "p_anneal" else STEPS
    assert_the_same(resolved(settings(arch), tokens=steps * BATCH), mesh)


@pytest.mark.parametrize("arch", ["topk", "l1_2023", "gated"])
def test_workers_that_have_no_memory_in_common_too(arch: str) -> None:
    assert_the_same(resolved(settings(arch), tokens=60 * BATCH), (2, 2), shared=False)


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu", "gated"])
def test_transcoders_with_a_skip_path_and_clipping_too(arch: str) -> None:
    p = resolved(settings(arch, skip=True), D_OUT, max_grad_norm=0.5, ema_decay=0.9, tokens=60 * BATCH)
    assert_the_same(p, (2, 2))


def test_prefixes_that_end_within_a_part_of_the_latents() -> None:
    assert_the_same(resolved(settings("matryoshka", prefixes=(1, 13, 24, 37, 48)), tokens=60 * BATCH), (1, 4))


def test_more_latents_a_row_than_one_worker_holds() -> None:
    assert_the_same(resolved(settings("topk", k=20), tokens=60 * BATCH), (1, 4))


def test_latents_that_cannot_be_dealt_evenly_are_everybody_s_to_update() -> None:
    assert_the_same(resolved(settings("topk", d_sae=45), tokens=60 * BATCH), (2, 1))


@pytest.mark.parametrize("clip", [None, 0.5])
def test_each_worker_updates_its_latents_only_and_fetches_the_others_moments_for_a_checkpoint(clip: float | None) -> None:
    p = resolved(settings("topk"), tokens=60 * BATCH, checkpoint_every_tokens=60 * BATCH, max_grad_norm=clip)
    data = rows(p)
    alone, _ = trained(p, data, OneProcess())
    apart: list[bool] = []

    def saved(run: Run) -> None:
        apart.append(run.state.moments_are_sharded)

    def stepped(mesh: Mesh) -> tuple[Tensor, Tensor]:
        state, _ = trained(p, data[:-1], mesh, shared=False)  # a checkpoint is due after the last step only
        stale = state.moments[0].W_dec.clone()
        return stale, trained(p, data, mesh, keep=saved, shared=False)[0].moments[0].W_dec

    before, _ = trained(p, data[:-1], OneProcess())
    for worker, (stale, whole) in enumerate(in_mesh(2, 1, stepped)):
        own, others = stale.chunk(2)[worker], stale.chunk(2)[1 - worker]
        assert difference(own, before.moments[0].W_dec.chunk(2)[worker]) < 1e-9
        assert difference(others, before.moments[0].W_dec.chunk(2)[1 - worker]) > 1e-3
        assert difference(whole, alone.moments[0].W_dec) < 1e-9
    assert apart == [False, False]


def keep_below(folder: str, mesh: Mesh) -> Callable[[Run], None]:
    """Leave checkpoints there, each part of the latents by one worker."""

    def keep(run: Run) -> None:
        if mesh.data.rank == 0:
            for name, content in run_to_files(run, mesh.latents).items():
                open_store(folder).put(f"checkpoints/{checkpoint_name(run.state.step)}/{name}", content)

    return keep


def resumed(p: Plan, data: Tensor, mesh: Mesh, folder: str) -> Tensor:
    """All weights of a run that goes on from the newest checkpoint there; its own checkpoints are not kept."""
    run = newest_run(open_store(folder), "checkpoints/", p, mesh=mesh)
    assert run is not None
    state, _ = trained(p, data, mesh, run)
    return joined(mesh.latents.all_gather([state.parameters.flat])[0].chunk(mesh.latents.world_size), p.layout).flat


WRITTEN, READ = [(1, 1), (1, 2), (2, 2)], [(1, 1), (2, 1), (1, 4), (2, 2)]


@pytest.mark.parametrize(
    ("arch", "read_by", "written_by"), sampled(product(["topk", "jumprelu", "gated"], READ, WRITTEN), at_least=9)
)
def test_a_checkpoint_of_one_mesh_is_gone_on_from_by_another(
    arch: str, written_by: tuple[int, int], read_by: tuple[int, int], tmp_path: Path
) -> None:
    p = resolved(settings(arch, skip=True), D_OUT, tokens=60 * BATCH, checkpoint_every_tokens=20 * BATCH, ema_decay=0.9)
    data, folder = rows(p), str(tmp_path)
    undisturbed = in_mesh(*written_by, lambda mesh: trained(p, data, mesh, keep=keep_below(folder, mesh)))
    shutil.rmtree(tmp_path / "checkpoints" / checkpoint_name(60))
    weights = in_mesh(*read_by, lambda mesh: resumed(p, data, mesh, folder))
    whole = joined([state.parameters.flat for state, _ in undisturbed[: written_by[1]]], p.layout).flat
    assert all(difference(found, whole) < 1e-9 for found in weights)
    if read_by == written_by:
        assert all(torch.equal(found, whole) for found in weights)


def test_a_checkpoint_that_lacks_a_part_is_passed_over_by_all(tmp_path: Path) -> None:
    p = resolved(settings("topk"), tokens=60 * BATCH, checkpoint_every_tokens=20 * BATCH)
    data, folder = rows(p), str(tmp_path)
    in_mesh(1, 2, lambda mesh: trained(p, data, mesh, keep=keep_below(folder, mesh)))
    (tmp_path / "checkpoints" / checkpoint_name(60) / "state.1-of-2.json").unlink()
    (tmp_path / "checkpoints" / checkpoint_name(40) / "state.0-of-2.safetensors").write_bytes(b"cut short")
    runs = in_mesh(1, 2, lambda mesh: newest_run(open_store(folder), "checkpoints/", p, mesh=mesh))
    assert [run.state.step for run in runs if run is not None] == [20, 20]


def test_a_part_takes_its_share_of_the_checkpoint_and_of_the_memory(tmp_path: Path) -> None:
    p = resolved(settings("topk"), tokens=BATCH)
    (alone,) = in_mesh(1, 1, lambda mesh: trained(p, rows(p), mesh)[0])
    parts = in_mesh(1, 4, lambda mesh: trained(p, rows(p), mesh)[0])
    for state in parts:
        sizes = [tensor.flat.numel() for tensor in (state.parameters, state.gradients, *state.moments)]
        assert sizes == [(alone.parameters.flat.numel() - D_IN) // 4 + D_IN] * 4


def test_if_one_worker_is_told_to_stop_all_save_at_the_same_step():
    p = resolved(settings("topk"), tokens=60 * BATCH)
    data, saved = rows(p), []

    def work(mesh: Mesh) -> int:
        told = mesh.data.rank == 1 and mesh.latents.rank == 0
        scaling = Scaling(torch.zeros(D_IN, dtype=torch.float64), torch.ones(D_IN, dtype=torch.float64))
        whole = view(initial_state(p, data[:8].flatten(0, 1).float()).parameters.flat.double(), p.layout)
        run = Run(state_from(part_of(whole, mesh.latents.rank, 2), p))
        own = [batch.chunk(4)[mesh.data.rank * 2 + mesh.latents.rank] for batch in data]
        steps = iter(range(100))
        listeners = ignore, lambda run: saved.append(run.state.step), lambda: next(steps) == 1 and told
        with pytest.raises(StoppedError):
            train(run, own, p, scaling, mesh, *listeners)
        return run.state.step

    assert in_mesh(2, 2, work) == [16] * 4
    assert saved.count(16) == 4
