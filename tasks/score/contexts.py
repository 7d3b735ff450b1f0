"""The rows of examples.parquet: each chosen activation with the text around it."""

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from tasks.activations.writer import Rows
from tasks.encode.pieces import Piece
from tasks.sae import SparseAutoencoder
from tasks.score.examples import ChosenContexts
from tasks.score.text import Text
from tasks.score.windows import Around, Windows, activations, windows


def show(
    sae: SparseAutoencoder,
    around: Around,
    piece: Piece,
    contexts: ChosenContexts,
    largest: Float32[np.ndarray, "d_sae"],
    text: Text | None,
    reach: int,
) -> tuple[pa.Table, Int64[np.ndarray, "d_sae bins"]]:
    """A row for each context, all of whose peaks lie in the piece, and the piece's share of all latents' histograms.

    ``text`` is None for activations of the user's own: a context is then a single row, read as its label or number.
    """
    hits = contexts.hits
    peak = hits.row - piece.first + around.first
    reach, context_length = (reach, text.context_length) if text else (0, int(around.rows.position.max()) + 1)
    seen = windows(around.rows, peak, reach, context_length)
    values, histogram = activations(sae, around, seen.row, hits.latent, largest)
    offsets = pa.array(np.concatenate([[0], np.cumsum(seen.inside.sum(axis=1))]), pa.int32())
    columns = {
        "latent": pa.array(hits.latent, pa.int32()),
        "group": pa.array(contexts.group, pa.int32()),
        "rank": pa.array(contexts.rank, pa.int32()),
        "kind": pa.array([f"q{group}" if group else "top" for group in contexts.group.tolist()], pa.string()),
        "activation": pa.array(hits.value, pa.float32()),
        "sequence": pa.array(seen.sequence, pa.int64()),
        "position": pa.array(seen.position[:, reach], pa.int32()),
        **(_text_columns(text, seen, reach, offsets) if text else _row_columns(around.rows, peak, offsets)),
        "token_activations": pa.ListArray.from_arrays(offsets, pa.array(values[seen.inside], pa.float32())),
        "peak": pa.array(seen.inside[:, :reach].sum(axis=1), pa.int32()),
        "label": pa.array([around.rows.label[i] if around.rows.label else None for i in peak], pa.string()),
    }
    return pa.table(columns), histogram


def _text_columns(text: Text, seen: Windows, reach: int, offsets: pa.Array) -> dict[str, pa.Array]:
    sequence = seen.sequence - text.first
    document = text.document[sequence, seen.position[:, reach]]
    strings = text.strings[sequence[:, None], np.clip(seen.position, 0, text.context_length - 1)]
    return {
        "document": pa.array(document, pa.int32()),
        "title": pa.array([text.titles[number] for number in document.tolist()], pa.string()),
        "tokens": pa.ListArray.from_arrays(offsets, pa.array(strings[seen.inside], pa.string())),
    }


def _row_columns(rows: Rows, peak: Int64[np.ndarray, "m"], offsets: pa.Array) -> dict[str, pa.Array]:
    names = [rows.label[i] if rows.label else f"row {rows.sequence[i]}" for i in peak]
    return {
        "document": pa.array(np.full(len(peak), -1), pa.int32()),
        "title": pa.array([""] * len(peak), pa.string()),
        "tokens": pa.ListArray.from_arrays(offsets, pa.array(names, pa.string())),
    }
