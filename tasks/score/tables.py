"""The Parquet tables of scores/, as Arrow tables and as bytes that depend on nothing but their content."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.score.logits import Extremes
from tasks.score.stats import LatentSums
from tasks.score.survey import LabelSums
from tasks.token_strings import TokenStrings

_LOGIT = pa.struct([("token", pa.string()), ("logit", pa.float32())])
_NEIGHBOUR = pa.struct([("latent", pa.int32()), ("cosine", pa.float32())])


@dataclass(frozen=True, slots=True)
class WeightColumns:
    """What a latent's weights alone say, as list columns: a list of structs for each latent."""

    promoted: pa.ListArray
    suppressed: pa.ListArray
    neighbours: pa.ListArray


def token_lists(found: Extremes | None, strings: TokenStrings | None, d_sae: int) -> pa.ListArray:
    """Tokens with their logits; empty lists where there is no unembedding or no tokenizer."""
    if found is None or strings is None:
        return _lists(pa.array([], pa.string()), pa.array([], pa.float32()), _LOGIT, d_sae)
    names = [strings.of_token(token_id) for token_id in found.index.flatten().tolist()]
    return _lists(pa.array(names, pa.string()), pa.array(found.score.flatten().numpy(), pa.float32()), _LOGIT, d_sae)


def neighbour_lists(found: Extremes) -> pa.ListArray:
    """Latents with their cosines."""
    latents, cosines = found.index.flatten().numpy(), found.score.flatten().numpy()
    return _lists(pa.array(latents, pa.int32()), pa.array(cosines, pa.float32()), _NEIGHBOUR, len(found.index))


def examples_table(parts: list[pa.Table]) -> pa.Table:
    """All contexts, by latent, the top list before the quantiles, and rank."""
    order = [("latent", "ascending"), ("group", "ascending"), ("rank", "ascending")]
    return pa.concat_tables(parts).sort_by(order).drop_columns(["group"])


def heatmap_table(labels: LabelSums, latents: LatentSums) -> pa.Table:
    """Mean activation over the rows of each label, of every latent that fires; labels in the order of the source."""
    firing = np.flatnonzero(latents.n_active)
    ordered = sorted(labels.rows, key=lambda label: labels.first[label])
    means = [labels.totals[label][firing] / labels.rows[label] for label in ordered]
    return pa.table(
        {
            "label": pa.array([label for label in ordered for _ in firing], pa.string()),
            "latent": pa.array(np.tile(firing, len(means)), pa.int32()),
            "activation": pa.array(np.concatenate(means), pa.float64()),
        }
    )


def to_parquet(table: pa.Table) -> bytes:
    """The table as zstd-compressed Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _lists(first: pa.Array, second: pa.Array, kind: pa.StructType, n: int) -> pa.ListArray:
    values = pa.StructArray.from_arrays([first, second], fields=list(kind))
    return pa.ListArray.from_arrays(offsets(n, len(first) // n), values)


def offsets(n: int, length: int) -> pa.Array:
    """Of ``n`` lists of equal length, as Arrow's list arrays take them."""
    return pa.array(np.arange(n + 1) * length, pa.int32())
