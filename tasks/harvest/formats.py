"""The formats in which activations leave for other tools: lists in Parquet, safetensors, a Hugging Face dataset."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.activations.schema import Array, storage_dtype, to_float32
from tasks.activations.writer import Rows

FormatName = Literal["list", "safetensors", "hf"]

# As few as a reader may want at once; a row group is the least that Parquet readers decode.
_ROW_GROUP_ROWS = 8192


class ExportFormat(Protocol):
    """How rows become files; every file can be made from its own rows alone."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's activation."""
        ...

    @property
    def multiple(self) -> int:
        """A file holds a multiple of this many rows."""
        ...

    def key(self, split: str, index: int, files: int) -> str:
        """The name of file ``index`` of ``files``."""
        ...

    def encode(self, rows: Rows) -> memoryview | bytes:
        """The bytes of one file, equal for equal rows."""
        ...

    def beside(self, keys: Sequence[str], fingerprint: str) -> Mapping[str, bytes]:
        """Small files that the reading library wants beside those of the rows."""
        ...


def open_format(name: FormatName, hook: str, d_in: int, stored: str, context: int) -> ExportFormat:
    """The format of that name, for rows of ``d_in`` numbers kept in dtype ``stored``.

    Args:
        name: list, safetensors or hf.
        hook: the name of hf's column of activations.
        d_in: width of an activation.
        stored: the dtype in which they are stored, such as bfloat16.
        context: activations in one row of hf's dataset.
    """
    if name == "safetensors":
        return _Safetensors(d_in, stored)
    # Arrow knows no bfloat16, and int8 rows are numbers only together with their scales.
    number = "float16" if stored == "float16" else "float32"
    return _Lists(d_in, stored, number) if name == "list" else _HuggingFace(d_in, stored, number, hook, context)


@dataclass(frozen=True)
class _Lists:
    """Parquet with a column ``activation`` of lists of float16 or float32."""

    d_in: int
    stored: str
    number: str
    multiple: int = 1

    @property
    def row_bytes(self) -> int:
        return self.d_in * np.dtype(self.number).itemsize

    def key(self, split: str, index: int, files: int) -> str:
        return f"{split}/{index:05d}.parquet"

    def encode(self, rows: Rows) -> memoryview:
        columns = {
            "activation": _listed(pa.array(_numbers(rows.activation, self.stored).ravel()), self.d_in),
            "token_id": rows.token_id,
            "sequence": rows.sequence,
            "position": rows.position,
        }
        if rows.label is not None:
            columns["label"] = rows.label
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table(columns),
            sink,
            row_group_size=_ROW_GROUP_ROWS,
            compression="none",
            use_dictionary=False,
            write_statistics=["token_id", "sequence", "position"],
        )
        return memoryview(sink.getvalue())

    def beside(self, keys: Sequence[str], fingerprint: str) -> Mapping[str, bytes]:
        return {}


@dataclass(frozen=True)
class _Safetensors:
    """Tensors ``activations`` [n, d_in], ``token_id``, ``sequence`` and ``position`` [n]; labels have no place in it."""

    d_in: int
    stored: str
    multiple: int = 1

    @property
    def row_bytes(self) -> int:
        return self.d_in * (4 if self.stored == "int8" else storage_dtype(self.stored).itemsize)

    def key(self, split: str, index: int, files: int) -> str:
        return f"{split}/{index:05d}.safetensors"

    def encode(self, rows: Rows) -> bytes:
        import torch  # only here, so that the command line, which imports this module, starts without it
        from safetensors.torch import save

        if self.stored == "bfloat16":
            activations = torch.from_numpy(_own(rows.activation)).view(torch.bfloat16)
        else:
            activations = torch.from_numpy(_own(_numbers(rows.activation, self.stored)))
        places = {name: torch.from_numpy(_own(getattr(rows, name))) for name in ("token_id", "sequence", "position")}
        # One entry only: safetensors writes several in an order that differs from process to process.
        encoded: bytes = save({"activations": activations, **places}, metadata={"format": "pt"})
        return encoded

    def beside(self, keys: Sequence[str], fingerprint: str) -> Mapping[str, bytes]:
        return {}


@dataclass(frozen=True)
class _HuggingFace:
    """What ``datasets.load_from_disk`` opens, in the layout of SAELens' cached activations.

    A row of the dataset is ``context`` rows as they follow each other: ``<hook>`` [context, d_in], and ``token_ids``,
    ``sequence`` and ``position`` [context]. SAELens mixes single activations of many rows, so which stand together in one
    does not matter to it, but that all are full does.

    Layout: https://github.com/decoderesearch/SAELens (cache_activations_runner.py, 6.54.12). Written by pyarrow: an Arrow
    stream whose field is marked with the name of the library's extension type, and two JSON files.
    """

    d_in: int
    stored: str
    number: str
    hook: str
    multiple: int

    @property
    def row_bytes(self) -> int:
        return self.d_in * np.dtype(self.number).itemsize

    def key(self, split: str, index: int, files: int) -> str:
        return f"data-{index:05d}-of-{files:05d}.arrow"

    def encode(self, rows: Rows) -> memoryview:
        values = pa.array(_numbers(rows.activation, self.stored).ravel())
        columns = [_listed(_listed(values, self.d_in), self.multiple)]
        columns += [
            pa.FixedSizeListArray.from_arrays(pa.array(values), self.multiple)
            for values in (rows.token_id, rows.sequence, rows.position)
        ]
        if rows.label is not None:
            columns.append(_listed(pa.array(rows.label, pa.string()), self.multiple))
        names = [self.hook, "token_ids", "sequence", "position", "label"]
        fields = [pa.field(name, column.type) for name, column in zip(names, columns, strict=False)]
        mark = {
            "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
            "ARROW:extension:metadata": json.dumps([[self.multiple, self.d_in], self.number]),
        }
        schema = pa.schema([fields[0].with_metadata(mark), *fields[1:]])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        return memoryview(sink.getvalue())

    def beside(self, keys: Sequence[str], fingerprint: str) -> Mapping[str, bytes]:
        info = {"citation": "", "description": "", "homepage": "", "license": ""}
        state: dict[str, Any] = {
            "_data_files": [{"filename": key} for key in keys],
            "_fingerprint": fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        # Without features the library takes them from the Arrow files, whichever way its version spells them in JSON.
        return {"dataset_info.json": _json(info), "state.json": _json(state)}


def _numbers(activation: Array, stored: str) -> Array:
    """Activations [n, d_in] as numbers that numpy knows: float16 as it is, all else as float32."""
    return activation if stored == "float16" else to_float32(activation, stored)


def _listed(values: pa.Array, length: int) -> pa.ListArray:
    """A list array of consecutive lists of ``length``."""
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, length, dtype=np.int32)), values)


def _own(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same in memory that may be written: torch warns of Arrow's, which may not."""
    return np.require(values, requirements=("C", "W"))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode()
