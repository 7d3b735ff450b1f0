"""What a GPU is given of stored rows, and how much at once, as far as a CPU can tell."""

from functools import partial

import numpy as np
import pytest
import torch

from tasks.activations.schema import DTYPES, from_float32, to_float32
from tasks.activations.tensors import from_stored
from tasks.encode import chunks
from tasks.encode.chunks import chunk_rows, encoded
from tasks.encode.codes import CSRCodes
from tasks.encode.halves import RowsAtOnce
from tasks.encode.moving import staged
from tasks.errors import InputError
from tests.scarce_memory import ScarceMemory, on_a_cpu, on_a_gpu
from tests.score.conftest import D_IN, MakeSAE

GPU = torch.device("cuda")


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, D_IN)).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wanted", [slice(None), slice(3, 7)], ids=["all", "some columns"])
def test_staged_rows_are_the_numbers_that_are_stored(dtype: str, wanted: slice) -> None:
    stored = from_float32(rows(20), dtype)
    if wanted != slice(None) and dtype != "int8":
        stored = stored[:, wanted]
    stored.flags.writeable = False  # as Parquet's are, and torch warns of such
    copy = staged(stored, pinned=False)
    found = from_stored(copy, dtype).float()
    assert found.numpy().tobytes() == to_float32(stored, dtype).tobytes()
    copy.zero_()
    assert stored.any(), "a copy, which may be overwritten"


def test_a_gpu_takes_half_a_gib_at_a_time_at_most() -> None:
    assert chunk_rows(65_536, GPU) == 2048
    assert chunk_rows(65_536) == 91
    for width in (2048, 50_000, 2**20):
        assert chunk_rows(width, GPU) * width * 4 <= 2**29
    assert chunk_rows(16, GPU) == 16_384


@pytest.mark.parametrize("error", [on_a_cpu, on_a_gpu])
@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_where_memory_ends_chunks_are_halved(arch: str, error: object, make_sae: MakeSAE) -> None:
    sae, x = make_sae(arch, d_sae=512), rows(100)
    (whole,) = encoded(sae, [x], "float32")
    with ScarceMemory(30 * 512 * 4, error) as memory:  # pre-activations of 30 rows
        parts = list(encoded(sae, [x], "float32"))
    assert memory.refused
    assert len(parts) >= 4
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), x)
    codes = CSRCodes.joined([part.codes for part in parts])
    np.testing.assert_array_equal(codes.offsets, whole.codes.offsets)
    np.testing.assert_array_equal(codes.latents, whole.codes.latents)
    np.testing.assert_allclose(codes.values, whole.codes.values, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([part.x_hat() for part in parts]), whole.x_hat(), rtol=1e-4, atol=1e-5)


def test_a_single_row_for_which_there_is_no_memory_is_told(make_sae: MakeSAE) -> None:
    sae = make_sae(d_sae=512)
    with ScarceMemory(500 * 4), pytest.raises(InputError, match="no memory to encode a single row with this SAE"):
        list(encoded(sae, [rows(3)], "float32"))


def test_what_is_no_lack_of_memory_is_raised_as_it_is() -> None:
    def work(part: torch.Tensor) -> None:
        raise RuntimeError("another error")

    with pytest.raises(RuntimeError, match="another error"):
        next(RowsAtOnce().parts(torch.zeros(4, 2), work))


def test_halves_are_in_order_and_none_is_left_out() -> None:
    def work(most: int, part: torch.Tensor) -> float:
        if len(part) > most:
            raise MemoryError
        return float(part.sum())

    x = torch.arange(22.0)[:, None]
    found = list(RowsAtOnce().parts(x, partial(work, 4)))
    assert torch.cat([part for part, _ in found]).equal(x)
    assert [total for _, total in found] == [float(part.sum()) for part, _ in found]
    assert max(len(part) for part, _ in found) <= 4


def test_what_memory_was_found_to_hold_is_remembered() -> None:
    asked: list[int] = []

    def work(part: torch.Tensor) -> int:
        asked.append(len(part))
        if len(part) > 4:
            raise MemoryError
        return len(part)

    at_once = RowsAtOnce()
    for n in (10, 7):
        list(at_once.parts(torch.zeros(n, 1), work))
    assert asked == [10, 5, 3, 3, 3, 1, 3, 3, 1]


def test_rows_in_main_memory_are_those_that_were_given(make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    x = rows(40)
    found = list(chunks.encoded_on_device(make_sae(), [x], "float32"))
    assert [chunk.start for chunk in found] == [0, 16, 32]
    assert torch.cat([chunk.x for chunk in found]).numpy().tobytes() == x.tobytes()
