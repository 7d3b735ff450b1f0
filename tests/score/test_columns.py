import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks.encode.codes import TensorCodes
from tasks.latent_columns import KEY, Shown, described
from tasks.score.columns import COLUMNS, Column, Latents, latents_table
from tasks.score.directions import Directions
from tasks.score.logits import Extremes
from tasks.score.stats import LatentSums
from tasks.score.tables import WeightColumns, neighbour_lists, to_parquet, token_lists

DENSE = torch.tensor([[0.0, 2.0, 0.5], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.5]])
DECODER = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])


def found(norm_shares: torch.Tensor | None = None, cosine: torch.Tensor | None = None) -> Latents:
    """Of three latents on four rows; the first never fires."""
    nothing = token_lists(None, None, 3)
    near = neighbour_lists(Extremes(torch.tensor([[1], [2], [0]]), torch.tensor([[0.1], [0.2], [0.3]])))
    sums = LatentSums.of(TensorCodes.of_dense(DENSE).in_main_memory(), 3)
    histogram = np.array([[0, 0], [1, 2], [1, 1]])
    return Latents(sums, histogram, WeightColumns(nothing, nothing, near), Directions(DECODER, cosine, norm_shares))


def test_a_row_says_how_often_and_how_strongly_a_latent_fires() -> None:
    table = latents_table(found(cosine=torch.tensor([0.5, 0.25, 1.0]))).to_pydict()
    assert table["latent"] == [0, 1, 2]
    assert table["density"] == [0, 0.75, 0.5]
    assert table["n_active"] == [0, 3, 2]
    assert table["max_activation"] == [0, 3, 1.5]
    assert table["mean_activation"] == [0, 2, 1]
    assert table["decoder_norm"] == [5, 1, 2]
    assert table["encoder_decoder_cosine"] == [0.5, 0.25, 1]
    assert table["histogram"] == [[0, 0], [1, 2], [1, 1]]


def test_columns_stand_in_the_order_of_their_declaration_without_those_that_such_an_sae_lacks() -> None:
    names = [column.name for column in COLUMNS]
    alone, several = latents_table(found()), latents_table(found(norm_shares=torch.tensor([[0.5, 0.5]] * 3)))
    assert several.column_names == names
    assert alone.column_names == [name for name in names if name != "decoder_norm_share"]
    assert alone["encoder_decoder_cosine"].null_count == 3


def test_the_file_itself_says_how_its_columns_are_shown() -> None:
    read = pq.read_table(pa.BufferReader(to_parquet(latents_table(found()))))
    shown = described(read)
    assert shown is not None
    assert [column.name for column in shown] == [column.name for column in COLUMNS if column.shown is not None]
    density = shown[0]
    assert (density.title, density.tip, density.digits, density.style) == (
        "Density",
        "Share of held-out rows on which it fires",
        2,
        "density",
    )


def test_one_more_declaration_is_one_more_column() -> None:
    column = Column("peak", lambda latents: pa.array(latents.sums.largest), Shown(title="Peak", tip="Highest.", digits=4))
    table = latents_table(found(), (*COLUMNS, column))
    shown = described(table)
    assert shown is not None
    assert (shown[-1].name, shown[-1].title, shown[-1].digits) == ("peak", "Peak", 4)
    assert table["peak"].to_pylist() == [0, 3, 1.5]


def test_a_column_of_lists_cannot_be_shown_among_numbers() -> None:
    column = Column("near", lambda latents: latents.weights.neighbours, Shown(title="Near", tip="Nearest."))
    with pytest.raises(ValueError, match=r"'near' holds list<.*, not numbers"):
        latents_table(found(), (*COLUMNS, column))


def test_equal_tables_are_equal_bytes_with_their_descriptions() -> None:
    assert to_parquet(latents_table(found())) == to_parquet(latents_table(found()))
    assert KEY in latents_table(found()).schema.metadata
