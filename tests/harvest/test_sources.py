"""Own activations of every kind that people have: read, or refused in one true sentence, in bounded memory."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tasks.errors import InputError, SaemillError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.parquet_source import ParquetSource
from tasks.harvest.sources import open_source
from tasks.storage.retry import Patience
from tests.conftest import ROOT

ROWS = np.arange(12, dtype=np.float64).reshape(4, 3)


def read(path: Path, **more: Any) -> np.ndarray:
    return np.concatenate([rows for rows, _ in open_source(ActivationsConfig(source=str(path), **more)).chunks(3)])


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8", "i1", "<u2", ">i4", "<u8", "<f8 by columns"])
def test_numbers_of_any_kind_in_a_npy_are_read_as_float32(kind: str, tmp_path: Path) -> None:
    dtype, _, order = kind.partition(" ")
    np.save(tmp_path / "a.npy", np.array(ROWS, dtype, order="F" if order else "C"))
    found = read(tmp_path / "a.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROWS)


def saved(array: np.ndarray, allow_pickle: bool = False) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=allow_pickle)


def header(text: str, version: int = 1) -> Callable[[Path], None]:
    """A .npy file of this header and no numbers."""

    def write(path: Path) -> None:
        length = len(text).to_bytes(2 if version == 1 else 4, "little")
        path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + text.encode())

    return write


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, ROWS)


def surplus(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, ROWS)
        np.save(file, ROWS)


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
NPY = {
    "bool": (saved(ROWS > 3), "holds bool .true and false."),
    "bfloat16 as numpy saves it": (saved(np.zeros((4, 3), "V2")), "numpy writes bfloat16 so, without its name"),
    "complex": (saved(ROWS * 1j), "complex numbers"),
    "text": (saved(ROWS.astype(str)), "holds <U"),
    "dates": (saved(np.zeros((4, 3), "M8[s]")), "holds datetime64"),
    "records": (saved(np.zeros(4, [("a", "f4")])), "holds .*'a'"),
    "objects": (saved(np.array([[{}]], object), allow_pickle=True), "never unpickled"),
    "a cube": (saved(np.zeros((2, 3, 4))), r"shape \[2, 3, 4\]"),
    "no rows": (saved(np.zeros((0, 3))), r"shape \[0, 3\]"),
    "too wide": (saved(np.zeros((1, 2**20 + 1), "i1")), "at most 1,048,576"),
    "an .npz": (npz, "is a .npz archive"),
    "two arrays": (surplus, "but its header speaks of"),
    "a shape that is true": (header(SHAPE % "(True, 4)"), "which is none"),
    "a shape of 2**64 - 1": (header(SHAPE % f"({2**64 - 1}, 4)"), "its header speaks of"),
    "a negative shape": (header(SHAPE % "(-1, 4)"), "which is none"),
    "no shape": (header("{'descr': '<f4'}"), "cannot be read as .npy: 'shape'"),
    "a call": (header("__import__('os').abort()"), "cannot be read as .npy"),
    "a deep header": (header("(" * 60_000, 2), "cannot be read as .npy"),
    "a long header": (header(" " * 70_000, 2), "which is damaged"),
    "a folder": (Path.mkdir, "is a folder without Parquet files"),
    "nothing": (Path.touch, "is no .npy file"),
}


@pytest.mark.parametrize("write, message", NPY.values(), ids=NPY)
def test_what_is_no_matrix_in_a_npy_is_told_for_what_it_is(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.npy")
    with pytest.raises(InputError, match=message) as refused:
        read(tmp_path / "a.npy")
    assert "\n" not in str(refused.value)


FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint16, *FLOAT8], ids=str)
def test_numbers_of_any_kind_in_safetensors_are_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"x": torch.from_numpy(ROWS).to(dtype)}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read(tmp_path / "a.safetensors"), torch.from_numpy(ROWS).to(dtype).float())


@pytest.mark.parametrize("dtype", ["F4", "BOOL", "F8_E8M0", "C64", "X"])
def test_other_kinds_in_safetensors_are_refused_by_name(dtype: str, tmp_path: Path) -> None:
    bits = {"F4": 4, "BOOL": 8, "F8_E8M0": 8, "C64": 64, "X": 8}[dtype]
    head = f'{{"x":{{"dtype":"{dtype}","shape":[4,2],"data_offsets":[0,{bits}]}}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(bits))
    with pytest.raises(InputError, match=f"{dtype}"):
        read(tmp_path / "a.safetensors")


LISTS = {
    "list": pa.list_(pa.float64()),
    "large_list": pa.large_list(pa.float32()),
    "fixed_size_list": pa.list_(pa.float16(), 3),
    "list_view": pa.list_view(pa.int64()),
    "uint8": pa.list_(pa.uint8()),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
def test_lists_of_any_kind_are_read(kind: pa.DataType, tmp_path: Path) -> None:
    values = pa.array(ROWS.astype(np.float16 if kind.value_type == pa.float16() else float).tolist(), kind)
    pq.write_table(pa.table({"activation": values}), tmp_path / "a.parquet", row_group_size=2)
    np.testing.assert_array_equal(read(tmp_path / "a.parquet"), ROWS)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.int8()])
def test_labels_of_any_kind_follow_their_rows(kind: pa.DataType, tmp_path: Path) -> None:
    values = [4, 3, 2, 1] if kind == pa.int8() else ["d", "c", "b", "a"]
    plain = pa.array(values)
    labels = plain.dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)
    pq.write_table(pa.table({"activation": list(ROWS), "label": labels}), tmp_path / "a.parquet")
    source = open_source(ActivationsConfig(source=str(tmp_path / "a.parquet"), label_column="label"))
    assert [label for _, labels in source.chunks(3) for label in labels or ()] == [str(value) for value in values]


def twice() -> pa.Table:
    return pa.table([pa.array(ROWS.tolist())] * 2, names=["activation", "activation"])


PARQUET = {
    "two columns of the name": (twice, "2 columns named 'activation', and activations.column cannot say which"),
    "bool": (lambda: pa.table({"activation": [[True]]}), "is of type list<.*bool>; lists of whole numbers, float16"),
    "text": (lambda: pa.table({"activation": ["a"]}), "is of type string"),
    "bytes": (lambda: pa.table({"activation": pa.array([b"aa"], pa.binary(2))}), "read only from files that saemill wrote"),
    "ragged": (lambda: pa.table({"activation": [[1.0], [1.0, 2.0]]}), "not all 1 numbers long"),
    "null rows": (lambda: pa.table({"activation": [[1.0], None]}), "rows without a value"),
    "null numbers": (lambda: pa.table({"activation": [[1.0], [None]]}), "missing numbers"),
    "no numbers": (lambda: pa.table({"activation": pa.array([[]], pa.list_(pa.float32()))}), "no numbers in its first row"),
    "no rows": (lambda: pa.table({"activation": pa.array([], pa.list_(pa.float32()))}), "has no rows"),
    "too wide": (lambda: pa.table({"activation": [np.zeros(2**20 + 1, np.int8)]}), "at most 1,048,576"),
}


@pytest.mark.parametrize("table, message", PARQUET.values(), ids=PARQUET)
def test_what_is_no_matrix_in_parquet_is_told_for_what_it_is(
    table: Callable[[], pa.Table], message: str, tmp_path: Path
) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.parquet")


def test_files_of_other_widths_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for name, width in (("a", 3), ("b", 2)):
        pq.write_table(pa.table({"activation": [[1.0] * width]}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"b.parquet has rows of 2 numbers, but .*a.parquet of 3"):
        read(tmp_path)


def test_a_server_that_is_not_there_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr("tasks.storage.s3._HASTE", Patience(seconds=0.1))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(SaemillError, match="of s3://bucket/rows"):
            open_source(ActivationsConfig(source="s3://bucket/rows.npy"))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def with_footer_of(rows: int, path: Path) -> None:
    """A Parquet file of 60 rows whose footer, but not its row group, says that they are fewer or more."""
    pq.write_table(pa.table({"activation": [[1.0, 2.0]] * 60}), path)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    said = data[start:].replace(b"\x16\x78\x19", bytes([0x16, 2 * rows, 0x19]), 1)  # num_rows, then the row groups
    assert said != data[start:]
    path.write_bytes(data[:start] + said)


@pytest.mark.parametrize(
    "rows, message", [(10, "holds more than 10 rows, but its footer speaks of 10"), (61, "holds 60 rows")]
)
def test_a_footer_that_lies_about_the_rows_is_told_and_never_waited_for(rows: int, message: str, tmp_path: Path) -> None:
    with_footer_of(rows, tmp_path / "a.parquet")
    source = open_source(ActivationsConfig(source=str(tmp_path / "a.parquet")))
    assert source.n_rows == rows
    with pytest.raises(InputError, match=message):
        list(itertools.islice(source.chunks(7), 100))


def test_labels_are_decoded_few_at_a_time_and_refused_where_they_are_texts(tmp_path: Path) -> None:
    label = ["x" * 2_000_000] * 200
    table = pa.table({"activation": [[1.0, 2.0]] * 200, "a.label": label})
    pq.write_table(table, tmp_path / "a.parquet", dictionary_pagesize_limit=2**30, compression="zstd")
    source = open_source(ActivationsConfig(source=str(tmp_path / "a.parquet"), label_column="a.label"))
    assert isinstance(source, ParquetSource)
    assert [source._batch_rows(file) for file in source._files] == [2**25 // 2_000_004]
    with pytest.raises(InputError, match=r"'a\.label' of .* has a label of 2,000,000 characters"):
        next(source.chunks(7))


BOMB = """
import resource, sys
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.sources import open_source
source = open_source(ActivationsConfig(source=sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 0
for values, _ in source.chunks(4096):
    rows += len(values)
    if rows >= 100_000:
        break
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_follow_the_size_of_a_row_group(tmp_path: Path) -> None:
    """400,000 x 128 zeros in one group: 200 MiB as numbers, 20 kB as a file. Read whole they took 610 MiB and more."""
    n, d = 400_000, 128
    offsets = pa.array(np.arange(0, (n + 1) * d, d, dtype=np.int32))
    column = pa.ListArray.from_arrays(offsets, pa.array(np.zeros(n * d, np.float32)))
    pq.write_table(pa.table({"activation": column}), tmp_path / "zeros.parquet", row_group_size=n)
    assert (tmp_path / "zeros.parquet").stat().st_size < 200_000
    command = [sys.executable, "-c", BOMB, str(tmp_path / "zeros.parquet")]
    rows, grown = map(int, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert rows >= 100_000
    assert grown < 120
