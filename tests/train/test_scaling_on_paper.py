"""The table of a step's terms: its bytes are those that workers send, and more of anything never costs less."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tasks.planner.processors import H100, H200, Constant
from tasks.planner.step import (
    COMPILED,
    SHARED_OUT,
    TORCH,
    TRITON,
    MeshShape,
    Message,
    Size,
    ideal_seconds,
    memory_bytes,
    seconds,
    sent_bytes,
    terms,
)
from tasks.sae.config import SAEConfig
from tasks.sae.scaling import Scaling
from tasks.train.config import TrainConfig
from tasks.train.distributed import TorchMesh
from tasks.train.plan import plan
from tasks.train.step import train_step
from tasks.train.train_state import initial_state
from tests.benchmarks.scaling.on_paper.machines import LINKS, MEASURED, PAIR
from tests.benchmarks.scaling.on_paper.meshes import FORMS, Setting, meshes, sizes
from tests.benchmarks.scaling.on_paper.page import on_a_card, page, predicted
from tests.conftest import free_port
from tests.together import together

# With k = d_sae and all latents active, each part has as many entries of a row; else those of a row fall on any part.
SIZES = (
    Size(d_in=16, d_sae=64, k=64, batch=32),
    Size(d_in=24, d_sae=32, k=32, batch=64),
    Size(d_in=16, d_sae=64, k=4, batch=32),
    Size(d_in=8, d_sae=128, k=5, batch=16),
)
MESHES = {2: (MeshShape(2, 1), MeshShape(1, 2)), 4: (MeshShape(4, 1), MeshShape(2, 2), MeshShape(1, 4))}


def knows_room(size: Size, mesh: MeshShape) -> bool:
    """Whether the entries of each worker's rows are known without looking at them."""
    return size.k == size.d_sae or mesh.a == 1 or mesh.b == 1


def sent(size: Size, mesh: MeshShape) -> float:
    """Bytes that this worker sends in the second of two steps, every latent active that may be."""
    workers = TorchMesh(mesh.b)
    lengths = {"tokens": 100 * size.batch, "batch_tokens": size.batch, "dead_after_tokens": 10**9}
    train = TrainConfig(**lengths, lanes=4, precision="bf16")  # as the table has it
    resolved = plan(SAEConfig(arch="topk", d_sae=size.d_sae, k=size.k), train, size.d_in)
    data = torch.randn(2, size.batch, size.d_in, generator=torch.Generator().manual_seed(0)).bfloat16()
    state = initial_state(resolved, data[0].float(), latents=workers.latents)
    state.parameters.b_enc.fill_(100.0)
    by = Scaling(torch.zeros(size.d_in), torch.ones(size.d_in))
    for batch in data:
        before = workers.traffic.sent_bytes
        train_step(state, batch.chunk(mesh.workers)[dist.get_rank()], resolved, by, workers)
    return workers.traffic.sent_bytes - before


def work(rank: int, world_size: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    try:
        found = [sent(size, mesh) for mesh in MESHES[world_size] for size in SIZES if knows_room(size, mesh)]
        Path(out, f"{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world_size", MESHES)
def test_the_bytes_of_the_table_are_those_that_workers_send(world_size: int, tmp_path: Path) -> None:
    together(work, world_size, free_port(), str(tmp_path), world_size=world_size)
    cases = [(size, mesh) for mesh in MESHES[world_size] for size in SIZES if knows_room(size, mesh)]
    expected = [sent_bytes(terms(size, mesh, SHARED_OUT, COMPILED), mesh) for size, mesh in cases]
    for rank in range(world_size):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected, rel=1e-12)


def test_one_worker_sends_nothing_and_waits_for_no_one() -> None:
    for form in FORMS:
        step, alone = terms(SIZES[0], MeshShape(1, 1), form, TORCH), MeshShape(1, 1)
        assert sent_bytes(step, alone) == 0
        silent = [replace(term, messages=()) for term in step]
        assert seconds(step, alone, H200) == seconds(silent, alone, H200)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("name", ["product", "memory", "inside", "between"])
def test_a_faster_machine_is_never_slower(form, name: str) -> None:
    faster = replace(H200, **{name: Constant(2 * getattr(H200, name), "if")})
    gained = []
    for size, workers in sizes():
        for mesh in meshes(workers):
            step = terms(size, mesh, form, TORCH)
            gained.append(seconds(step, mesh, H200) - seconds(step, mesh, faster))
    assert min(gained) >= 0
    assert max(gained) > 0


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("what", ["d_in", "d_sae", "batch", "k"])
def test_more_to_do_costs_more_time_memory_and_traffic(form, what: str) -> None:
    for size, workers in sizes():
        more = replace(size, **{what: 2 * getattr(size, what)})
        for mesh in meshes(workers):
            less_step, more_step = (terms(s, mesh, form, TORCH) for s in (size, more))
            assert seconds(more_step, mesh, H200) > seconds(less_step, mesh, H200)
            assert memory_bytes(more, mesh, form, TORCH) >= memory_bytes(size, mesh, form, TORCH)
            assert sent_bytes(more_step, mesh) >= sent_bytes(less_step, mesh)


def test_no_step_is_faster_than_its_product_alone() -> None:
    for size, workers in sizes():
        for mesh in meshes(workers):
            for form in FORMS:
                step = terms(size, mesh, form, COMPILED)
                assert seconds(step, mesh, H200) > ideal_seconds(size, mesh, H200)


def test_the_more_parts_of_the_latents_the_less_memory_for_weights() -> None:
    size = Size(d_in=4096, d_sae=2**22)
    held = [memory_bytes(size, MeshShape(64 // b, b), SHARED_OUT, TORCH) for b in (1, 2, 4, 8, 16, 32, 64)]
    assert held == sorted(held, reverse=True)


def test_a_ring_pays_for_the_network_only_where_it_leaves_the_node() -> None:
    message, near, far = Message("gather", "latents", 1e9), MeshShape(1, 8), MeshShape(1, 16)
    slow = replace(H200, between=Constant(1e6, "if"))
    assert message.seconds(near, slow) == message.seconds(near, H200)
    assert message.seconds(far, slow) > 100 * message.seconds(far, H200)
    # With 8 parts to a node, each of its 8 rings among rows has one adapter to itself; alone on a node, one has all 8.
    assert Message("gather", "rows", 1e9).seconds(MeshShape(16, 8), H200) > 4 * Message("gather", "rows", 1e9).seconds(
        MeshShape(16, 1), H200
    )


def test_what_fits_an_h100_fits_an_h200_and_is_as_fast_there() -> None:
    for size, workers in sizes():
        small, large = (Setting(machine, SHARED_OUT, TORCH) for machine in (H100, H200))
        mesh = small.best(size, workers)
        if mesh is not None:
            assert large.fits(size, mesh)
            assert large.seconds(size, mesh) <= small.seconds(size, mesh)


@pytest.mark.parametrize("link", LINKS)
def test_two_workers_on_a_cpu_are_in_the_measured_order_and_not_far_off(link: str) -> None:
    found = predicted(PAIR, link)
    assert sorted(found, key=found.__getitem__) == sorted(found, key=lambda name: MEASURED[link, name])
    assert all(0.9 < ratio / MEASURED[link, name] < 1.35 for name, ratio in found.items())


def test_a_step_on_one_card_is_not_far_from_what_was_measured() -> None:
    found = {(kernels, size.d_in): by_table / measured for kernels, size, by_table, measured in on_a_card()}
    assert all(0.7 < ratio < 1.1 for (kernels, _), ratio in found.items() if kernels == "Triton"), found
    assert all(ratio < 1 for (kernels, _), ratio in found.items() if kernels == "plain torch"), found


def test_scaling_md_is_what_the_script_prints() -> None:
    written = Path(__file__).parents[1] / "benchmarks" / "SCALING.md"
    assert written.read_text() == "\n".join(page(H200, TRITON, PAIR))
