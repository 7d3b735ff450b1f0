"""Where memory ends, a step goes through its rows in blocks."""

import logging
from collections.abc import Sequence

import pytest
import torch

from tasks.errors import InputError
from tasks.sae.architectures.base import Scratch
from tasks.sae.architectures.row_blocks import at_once, in_blocks
from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.types import joined_entries
from tests.scarce_memory import on_a_cpu, on_a_gpu


class Room:
    """Work that takes some rows at a time, and notes which it was asked to take."""

    def __init__(self, rows: int, error: Exception) -> None:
        self.rows, self.error = rows, error
        self.asked: list[list[tuple[int, int]]] = []

    def work(self, blocks: Sequence[slice]) -> int:
        self.asked.append([(block.start, block.stop) for block in blocks])
        for block in blocks:
            if block.stop - block.start > self.rows:
                raise self.error
        return sum(block.stop - block.start for block in blocks)


def real_error() -> Exception:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55, dtype=torch.uint8)
    return raised.value


@pytest.mark.parametrize(
    "error", [on_a_gpu(1), on_a_cpu(1), MemoryError(), real_error()], ids=lambda one: type(one).__name__
)
def test_rows_are_halved_until_a_block_fits_and_that_is_kept_and_told_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scratch, room = Scratch({"pre_acts": torch.zeros(3)}), Room(3, error)
    with caplog.at_level(logging.WARNING, "tasks.sae"):
        assert in_blocks(10, scratch, room.work) == 10
    assert room.asked == [[(0, 10)], [(0, 5), (5, 10)], [(0, 3), (3, 6), (6, 9), (9, 10)]]
    assert caplog.messages == ["out of memory with 10 rows of a step at once; going on with 3 at a time"]
    assert scratch.most_rows == 3
    assert not scratch.buffers
    assert in_blocks(10, scratch, room.work) == 10
    assert in_blocks(2, scratch, room.work) == 2
    assert room.asked[3:] == [[(0, 3), (3, 6), (6, 9), (9, 10)], [(0, 2)]]
    assert len(caplog.messages) == 1


def test_with_enough_memory_nothing_is_learnt_or_told(caplog: pytest.LogCaptureFixture) -> None:
    scratch, room = Scratch(), Room(10, on_a_cpu(1))
    assert in_blocks(10, scratch, room.work) == 10
    assert (room.asked, scratch.most_rows, caplog.messages) == ([[(0, 10)]], None, [])


def test_a_single_row_that_does_not_fit_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"no memory for the pre-activations of a single row\. Lower sae\.d_sae"):
        in_blocks(10, Scratch(), Room(0, on_a_gpu(1)).work)


def test_what_cannot_be_begun_again_is_refused_in_a_sentence() -> None:
    assert at_once(10, Room(10, on_a_gpu(1)).work) == 10
    room = Room(9, on_a_gpu(1))
    with pytest.raises(InputError, match="no memory for a step of 10 rows over all latents"):
        at_once(10, room.work)
    assert room.asked == [[(0, 10)]]


@pytest.mark.parametrize("run", [lambda work: in_blocks(10, Scratch(), work), lambda work: at_once(10, work)])
def test_another_error_is_nobody_s_to_answer(run) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        run(Room(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied")).work)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_entries_of_blocks_of_rows_are_those_of_all_rows(size: int) -> None:
    pre_acts = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    pre_acts[5:9] = -1.0  # rows without any
    backend = TorchBackend()
    whole = backend.select_top_k(pre_acts, 3, torch.float64)
    found = joined_entries([backend.select_top_k(block, 3, torch.float64) for block in pre_acts.split(size)])
    for name in ("values", "latents", "start"):
        ours, theirs = getattr(found, name), getattr(whole, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
