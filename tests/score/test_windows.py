import numpy as np
import pytest
import torch

from tasks.activations.reader import Split
from tasks.activations.writer import Rows
from tasks.encode.pieces import Piece, cut
from tasks.sae import SparseAutoencoder
from tasks.score.contexts import show
from tasks.score.examples import ChosenContexts, Hits
from tasks.score.sample import evenly, spread_rows
from tasks.score.text import Text
from tasks.score.windows import HISTOGRAM_BINS, Around, windows
from tests.score.conftest import CONTEXT, D_SAE, MakeSAE, StoreRows, text_rows

SEQUENCES = 12
REACH = 3


@pytest.fixture
def rows() -> Rows:
    return text_rows(SEQUENCES)


@pytest.fixture
def split(store_rows: StoreRows, rows: Rows) -> Split:
    return Split(store_rows([text_rows(3)], [rows]), "layer", "eval")


@pytest.fixture
def text() -> Text:
    numbers = np.arange(SEQUENCES * CONTEXT).reshape(SEQUENCES, CONTEXT)
    strings = np.array([[f"t{n}" for n in line] for line in numbers], dtype=object)
    return Text(0, strings, (numbers // 7).astype(np.int32), {n: f"document {n}" for n in range(SEQUENCES * CONTEXT)})


def every_hit(sae: SparseAutoencoder, rows: Rows) -> tuple[ChosenContexts, np.ndarray]:
    """A context for each activation, and the dense codes [n, d_sae]."""
    dense = sae.encode(torch.tensor(rows.activation)).numpy()
    row, latent = np.nonzero(dense)
    hits = Hits(latent, dense[row, latent], row, rows.sequence[row])
    return ChosenContexts(hits, row % 3, np.zeros(len(row), np.int64)), dense


def test_windows_show_the_text_and_activations_around_their_peak(
    make_sae: MakeSAE, split: Split, rows: Rows, text: Text
) -> None:
    sae = make_sae()
    contexts, dense = every_hit(sae, rows)
    place = {(s, p): n for n, (s, p) in enumerate(zip(rows.sequence.tolist(), rows.position.tolist(), strict=True))}
    piece = Piece(0, 0, len(rows), 0)
    table, _ = show(sae, Around.read(split, piece, REACH), piece, contexts, dense.max(0), text, REACH)
    for found in table.to_pylist():
        sequence, position, latent = found["sequence"], found["position"], found["latent"]
        seen = range(max(0, position - REACH), min(CONTEXT, position + REACH + 1))
        assert found["tokens"] == [text.strings[sequence, p] for p in seen]
        expected = [dense[place[sequence, p], latent] if (sequence, p) in place else 0 for p in seen]
        assert found["token_activations"] == pytest.approx(expected, rel=1e-5)
        assert found["token_activations"][found["peak"]] == found["activation"]
        assert found["document"] == (sequence * CONTEXT + position) // 7
        assert found["title"] == f"document {found['document']}"
        assert found["label"] is None
    assert table["kind"].to_pylist() == [{0: "top", 1: "q1", 2: "q2"}[n] for n in table["group"].to_pylist()]


@pytest.mark.parametrize("piece_rows", [1, 10, 37])
def test_pieces_give_together_what_one_piece_gives(
    make_sae: MakeSAE, split: Split, rows: Rows, text: Text, piece_rows: int
) -> None:
    sae = make_sae()
    contexts, dense = every_hit(sae, rows)

    def shown(pieces: list[Piece]) -> tuple[list[dict[str, object]], np.ndarray]:
        lines, histogram = [], np.zeros((D_SAE, HISTOGRAM_BINS), np.int64)
        for piece in pieces:
            own = contexts.between(piece.first, piece.first + piece.rows)
            table, counts = show(sae, Around.read(split, piece, REACH), piece, own, dense.max(0), text, REACH)
            lines += table.to_pylist()
            histogram += counts
        return lines, histogram

    whole, parts = shown(cut(split, len(rows))), shown(cut(split, len(rows), piece_rows))
    np.testing.assert_array_equal(whole[1], parts[1])
    for a, b in zip(whole[0], parts[0], strict=True):
        assert a.pop("token_activations") == pytest.approx(b.pop("token_activations"), rel=1e-5)
        assert a == b


@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_histograms_count_every_activation_between_zero_and_the_largest(
    make_sae: MakeSAE, split: Split, rows: Rows, arch: str
) -> None:
    sae = make_sae(arch)
    dense = sae.encode(torch.tensor(rows.activation)).numpy()
    piece = Piece(0, 0, len(rows), 0)
    nothing = ChosenContexts(Hits.none(), np.zeros(0, np.int64), np.zeros(0, np.int64))
    table, histogram = show(sae, Around.read(split, piece, 0), piece, nothing, dense.max(0), None, 0)
    assert table.num_rows == 0
    assert histogram.sum(1).tolist() == (dense > 0).sum(0).tolist()
    for latent in range(D_SAE):
        values = dense[dense[:, latent] > 0, latent]
        if len(values):
            expected, _ = np.histogram(values.astype(np.float64), HISTOGRAM_BINS, (0, float(dense[:, latent].max())))
            assert histogram[latent].tolist() == expected.tolist()


def test_windows_stop_at_the_borders_of_the_sequence(rows: Rows) -> None:
    seen = windows(rows, np.arange(len(rows)), REACH, CONTEXT)
    assert (seen.inside == ((seen.position >= 0) & (seen.position < CONTEXT))).all()
    linked = seen.row >= 0
    assert not linked[seen.position <= 0].any()  # position 0 is masked in all sequences
    assert (rows.sequence[seen.row] == seen.sequence[:, None])[linked].all()
    assert (rows.position[seen.row] == seen.position)[linked].all()


@pytest.mark.parametrize("labels", [True, False])
def test_rows_of_the_users_own_are_shown_by_label_or_number(make_sae: MakeSAE, store_rows: StoreRows, labels: bool) -> None:
    read = text_rows(2)
    n = len(read)
    names = [f"L{i}" for i in range(n)] if labels else None
    rows = Rows(read.activation, read.token_id, np.arange(n) * 10, np.zeros(n, np.int32), names)
    split = Split(store_rows([rows], [rows]), "layer", "eval")
    sae, piece = make_sae(), Piece(0, 0, n, 0)
    contexts, dense = every_hit(sae, rows)
    table, _ = show(sae, Around.read(split, piece, 5), piece, contexts, dense.max(0), None, 5)
    for found in table.to_pylist():
        number = found["sequence"] // 10
        assert found["tokens"] == [f"L{number}" if labels else f"row {number * 10}"]
        assert found["label"] == (f"L{number}" if labels else None)
        assert found["token_activations"] == [found["activation"]]
        assert (found["document"], found["title"], found["peak"]) == (-1, "", 0)


def test_cut_takes_the_first_rows_in_order_and_skips_empty_shards(store_rows: StoreRows) -> None:
    shards = [text_rows(3), text_rows(0), text_rows(4, first=3)]
    split = Split(store_rows([text_rows(2)], shards), "layer", "eval")
    sizes = [len(rows) for rows in shards]
    pieces = cut(split, sizes[0] + 5, piece_rows=9)
    assert sum(piece.rows for piece in pieces) == sizes[0] + 5
    assert [piece.first for piece in pieces] == np.cumsum([0, *(piece.rows for piece in pieces)])[:-1].tolist()
    assert {piece.shard for piece in pieces} == {0, 2}
    assert max(piece.rows for piece in pieces) <= 9


def test_spread_rows_are_evenly_spaced_over_all_pieces(store_rows: StoreRows) -> None:
    shards = [text_rows(3), text_rows(4, first=3)]
    split = Split(store_rows([text_rows(2)], shards), "layer", "eval")
    whole = np.concatenate([rows.activation for rows in shards])
    pieces = cut(split, len(whole), piece_rows=5)
    np.testing.assert_array_equal(spread_rows(split, pieces, 11), whole[np.arange(11) * len(whole) // 11])
    np.testing.assert_array_equal(spread_rows(split, pieces, 10**6), whole)
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
