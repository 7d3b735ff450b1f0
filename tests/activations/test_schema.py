import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.activations.schema import Dtype, RowFormat, from_float32, no_rows, row_bytes, to_float32
from tasks.activations.tensors import as_array, as_tensor, from_stored, to_stored
from tasks.activations.writer import Rows, encode_shard
from tasks.errors import ArtifactError

DTYPES: list[Dtype] = ["bfloat16", "float16", "float32", "int8"]
PRECISION = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 0.0}
numbers = st.lists(st.floats(-6e4, 6e4, width=32), min_size=6, max_size=6)
matrices = st.lists(numbers, min_size=1, max_size=5).map(lambda rows: np.array(rows, np.float32))


@given(matrices, st.sampled_from(sorted(PRECISION)))
def test_stored_numbers_come_back_to_the_precision_of_their_type(exact: np.ndarray, dtype: str) -> None:
    back = to_float32(from_float32(exact, dtype), dtype)
    assert (np.abs(back - exact) <= np.abs(exact) * PRECISION[dtype] + 1e-7).all()


@given(matrices)
def test_int8_rows_come_back_to_half_a_step_of_their_own_largest_number(exact: np.ndarray) -> None:
    back = to_float32(from_float32(exact, "int8"), "int8")
    step = np.abs(exact).max(axis=1, keepdims=True) / 127
    assert (np.abs(back - exact) <= step * 0.50001 + 1e-40).all()


def test_an_int8_row_is_its_scale_and_then_its_steps() -> None:
    stored = from_float32(np.array([[127.0, -63.6, 0.4], [0, 0, 0], [-2, 1, 0.5]], np.float32), "int8")
    assert stored[:, :4].copy().view("<f4").ravel().tolist() == [1, 0, np.float32(2 / 127)]
    assert stored[:, 4:].view(np.int8).tolist() == [[127, -64, 0], [0, 0, 0], [-127, 64, 32]]
    assert to_float32(stored, "int8")[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_an_int8_row_that_is_not_finite_stays_so(number: float) -> None:
    stored = from_float32(np.array([[1, number, 3], [1, 2, 3]], np.float32), "int8")
    assert np.isfinite(to_float32(stored, "int8")).all(axis=1).tolist() == [False, True]


@given(matrices, st.sampled_from(DTYPES))
def test_torch_and_numpy_store_the_same_bits_and_read_the_same_numbers(exact: np.ndarray, dtype: Dtype) -> None:
    stored = from_float32(exact, dtype)
    assert np.array_equal(as_array(to_stored(torch.from_numpy(exact), dtype), dtype), stored)
    assert np.array_equal(from_stored(as_tensor(stored), dtype).float().numpy(), to_float32(stored, dtype))
    assert np.array_equal(from_stored(as_tensor(stored)[-1:], dtype).float().numpy(), to_float32(stored[-1:], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_takes_the_bytes_that_are_foretold(dtype: Dtype) -> None:
    rows = Rows(no_rows(5, dtype), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32))
    row_format = RowFormat(5, dtype, "hook", "model", "main", "0" * 12)
    assert encode_shard(rows, row_format, 10).rows == 0
    assert {"bfloat16": 10, "float16": 10, "float32": 20, "int8": 9}[dtype] == row_bytes(5, dtype) == row_format.row_bytes
    assert RowFormat.of(row_format.schema(), "here") == row_format


def test_int8_rows_without_their_scales_are_not_stored() -> None:
    rows = Rows(np.empty((1, 5), np.uint8), np.empty(1, np.int32), np.empty(1, np.int64), np.empty(1, np.int32))
    with pytest.raises(ArtifactError, match="Rows of 5 x uint8 do not fit the shard's 5 x int8"):
        encode_shard(rows, RowFormat(5, "int8", "hook", "model", "main", "0" * 12), 10)
