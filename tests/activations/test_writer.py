import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.activations.schema import RowFormat
from tasks.activations.writer import Rows, encode_shard


@pytest.mark.parametrize(("n", "row_group_rows"), [(0, 1), (1, 1), (3_000, 1), (3_000, 7), (3_000, 5_000)])
def test_a_shard_of_any_number_of_row_groups_and_long_labels_is_encoded(n: int, row_group_rows: int) -> None:
    row_format = RowFormat(2, "float32", "hook", "model", "main", "0" * 12, labelled=True)
    labels = ["\N{SNOWMAN}" * (i % 200) for i in range(n)]
    activation = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    rows = Rows(activation, np.arange(n, dtype=np.int32), np.arange(n), np.arange(n, dtype=np.int32), labels)
    found = encode_shard(rows, row_format, row_group_rows)
    table = pq.read_table(pa.BufferReader(found.data))
    assert found.rows == n
    assert table["label"].to_pylist() == labels
    assert b"".join(table["activation"].to_pylist()) == activation.tobytes()
