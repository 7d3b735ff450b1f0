"""Workers on one machine exchange through memory what they would through sockets, to the same bits."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tasks.sae.mesh import Traffic
from tasks.train import shared_memory
from tasks.train.distributed import TorchMesh, TorchProcessGroup
from tasks.train.shared_memory import join
from tests.conftest import free_port
from tests.patience import until
from tests.together import forkserver, together

SIZES = (1, 7, 1000, 400_000, 5, 600_000)  # files are replaced by larger ones, which then are too large
DTYPES = (torch.float32, torch.float64, torch.int64)


def _in_group(rank: int, world_size: int, port: int, work: Callable[[int, int], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    try:
        work(rank, world_size)
    finally:
        dist.destroy_process_group()


def in_group(world_size: int, work: Callable[[int, int], None]) -> None:
    together(_in_group, world_size, free_port(), work, world_size=world_size)


def _equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def _same_as_over_sockets(rank: int, world_size: int) -> None:
    memory, sockets = (TorchProcessGroup(None, Traffic(), in_memory=choice) for choice in (True, False))
    assert memory._memory is not None
    assert sockets._memory is None
    for size in SIZES:
        for dtype in DTYPES:
            generator = torch.Generator().manual_seed(rank * 1000 + size)
            numbers = torch.randint(-50, 50, (size,), generator=generator).to(dtype)
            rows = torch.rand(3, 5, generator=generator).bfloat16()
            given = [rows[:1, :3], numbers, numbers[:0], rows]
            _equal(memory.all_gather(given), sockets.all_gather(given))
            sums = [numbers.clone(), numbers.clone()]
            memory.all_reduce(sums[0])
            sockets.all_reduce(sums[1])
            _equal(sums[:1], sums[1:])
            table = torch.stack([numbers] * 2 * world_size)
            for axis, whole in ((0, table), (1, table.T.contiguous())):
                _equal([memory.reduce_scatter(whole, axis)], [sockets.reduce_scatter(whole, axis)])
            parts = torch.rand(size * world_size, 3, generator=generator)
            wholes = [[parts.clone(), parts[:, 0].clone()] for _ in range(2)]
            memory.all_gather_in_place(wholes[0])
            sockets.all_gather_in_place(wholes[1])
            _equal(wholes[0], wholes[1])
    assert memory.traffic.sent_bytes == sockets.traffic.sent_bytes > 0


@pytest.mark.parametrize("world_size", [2, 3])
def test_it_gives_what_sockets_give(world_size: int) -> None:
    in_group(world_size, _same_as_over_sockets)


def _written_by_all(rank: int, world_size: int) -> None:
    group = TorchProcessGroup(None, Traffic())
    first, second = (group.share_memory(torch.full((40, 3), float(10 * n + rank))) for n in (1, 2))
    assert first is not None
    assert second is not None
    for step in range(100):
        assert first.tolist() == [[10.0 + step] * 3] * 40
        group.barrier()  # all have read
        first[rank::world_size] += 1
        group.barrier()  # all have written
    assert second.tolist() == [[20.0] * 3] * 40


@pytest.mark.parametrize("world_size", [2, 3])
def test_what_one_writes_into_memory_in_common_all_see_when_they_have_met(world_size: int) -> None:
    in_group(world_size, _written_by_all)


def _nothing_in_common(rank: int, world_size: int) -> None:
    assert TorchProcessGroup(None, Traffic(), in_memory=False).share_memory(torch.zeros(3)) is None


def test_over_sockets_nothing_is_in_common() -> None:
    in_group(2, _nothing_in_common)


def _sums_of_odd_tensors(rank: int, world_size: int) -> None:
    group = TorchProcessGroup(None, Traffic())
    scalar, columns = torch.tensor(float(rank)), torch.full((3, 4), float(rank))
    group.all_reduce(scalar)
    group.all_reduce(columns[:, 1])
    assert float(scalar) == 1
    assert columns.tolist() == [[rank, 1, rank, rank]] * 3


def test_a_sum_of_a_number_or_of_a_column_is_written_where_it_was() -> None:
    in_group(2, _sums_of_odd_tensors)


def _each_mesh(rank: int, world_size: int) -> None:
    mesh = TorchMesh(2)
    assert mesh.data.all_gather([torch.tensor([rank])])[0].tolist() == [rank % 2, rank % 2 + 2]
    assert mesh.latents.all_gather([torch.tensor([rank])])[0].tolist() == [rank // 2 * 2, rank // 2 * 2 + 1]


def test_each_group_of_a_mesh_has_memory_of_its_own() -> None:
    in_group(4, _each_mesh)


def _late(rank: int, world_size: int) -> None:
    memory = join(None, timeout_s=0.5)
    assert memory is not None
    memory.all_gather([torch.zeros(1)])
    if rank == 0:
        with pytest.raises(TimeoutError, match=r"Workers \[1\] did not come to an exchange within 0\.5 s"):
            memory.all_gather([torch.zeros(1)])
    dist.barrier()


def test_a_worker_that_does_not_come_is_not_waited_for_for_ever() -> None:
    in_group(2, _late)


def _another_machine(rank: int, world_size: int) -> None:
    if rank == 1:
        shared_memory._opened = _not_to_be_opened
    group = TorchProcessGroup(None, Traffic())
    assert group._memory is None
    assert group.all_gather([torch.tensor([rank])])[0].tolist() == [0, 1]


def _not_to_be_opened(pid: int, file: int) -> int:
    raise FileNotFoundError


def test_if_one_cannot_see_the_memory_all_use_sockets() -> None:
    in_group(2, _another_machine)


def _same_number_of_another_file(rank: int, world_size: int) -> None:
    if rank == 1:  # as on another machine, where the process of that number has some other file of that number
        path = Path(f"/proc/{os.getpid()}/exe")
        shared_memory._opened = lambda pid, file: os.open(path, os.O_RDONLY)
    assert join(None) is None


def test_another_machine_s_process_of_the_same_number_is_not_taken_for_it() -> None:
    in_group(2, _same_number_of_another_file)


def _wait_to_be_killed(rank: int, world_size: int) -> None:
    memory = join(None)
    assert memory is not None
    memory.all_gather([torch.zeros(2_000_000)])
    time.sleep(600)


def _files() -> int:
    return sum(1 for _ in Path("/dev/shm").iterdir())


def test_killed_workers_leave_no_memory_behind() -> None:
    before, port = _files(), free_port()
    processes = forkserver()
    workers = [processes.Process(target=_in_group, args=(rank, 2, port, _wait_to_be_killed)) for rank in range(2)]
    for worker in workers:
        worker.start()
    until(lambda: all(_has_mapped(worker.pid) for worker in workers), "both workers have both files")
    for worker in workers:
        worker.kill()
        worker.join()
    assert _files() == before


def _has_mapped(pid: int | None) -> bool:
    """Whether a process holds both workers' files."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:saemill") >= 2
