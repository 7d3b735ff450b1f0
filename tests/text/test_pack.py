import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.text.pack import Packer, split_of, text_hash

documents = st.lists(st.lists(st.integers(2, 9), max_size=12), max_size=12)
SEPARATOR, PREFIX = 0, 1


def pack(token_lists, context_length, separator=None, prefix=None):
    """Sequences and documents of a whole corpus, and the packer."""
    packer = Packer(context_length, separator, prefix)
    pieces = [packer.add(i, np.array(ids, np.int32)) for i, ids in enumerate(token_lists)]
    ids = np.concatenate([piece[0] for piece in pieces] or [np.empty((0, context_length), np.int32)])
    owners = np.concatenate([piece[1] for piece in pieces] or [np.empty((0, context_length), np.int32)])
    return ids, owners, packer


@given(documents, st.integers(2, 8), st.sampled_from([None, SEPARATOR]), st.sampled_from([None, PREFIX]))
def test_every_token_is_accounted_for(token_lists, context_length, separator, prefix):
    ids, owners, packer = pack(token_lists, context_length, separator, prefix)
    n_in = sum(map(len, token_lists))
    n_separators = max(len(token_lists) - 1, 0) if separator is not None else 0
    n_prefixes = len(ids) if prefix is not None else 0
    assert n_in + n_separators + n_prefixes == ids.size + packer.n_pending
    assert owners.shape == ids.shape


@given(documents, st.integers(2, 8))
def test_nothing_but_documents_and_separators_is_in_the_sequences_and_their_order_is_kept(token_lists, context_length):
    ids, _, packer = pack(token_lists, context_length, SEPARATOR)
    stream = [token for i, tokens in enumerate(token_lists) for token in ([SEPARATOR] if i else []) + tokens]
    assert ids.ravel().tolist() == stream[: len(stream) - packer.n_pending]
    assert packer.n_pending < context_length


@given(documents, st.integers(2, 8))
def test_each_token_knows_its_document(token_lists, context_length):
    ids, owners, _ = pack(token_lists, context_length)
    owned = [(i, token) for i, tokens in enumerate(token_lists) for token in tokens]
    assert list(zip(owners.ravel().tolist(), ids.ravel().tolist(), strict=True)) == owned[: ids.size]


def test_a_separator_ends_the_document_before_it_and_a_prefix_begins_the_one_behind_it():
    ids, owners, packer = pack([[5, 5, 5], [6, 6]], 3, SEPARATOR, PREFIX)
    assert ids.tolist() == [[1, 5, 5], [1, 5, 0], [1, 6, 6]]
    assert owners.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert packer.n_pending == 0


@given(st.text(max_size=20), st.floats(0.01, 0.99))
def test_the_split_depends_on_nothing_but_the_text(text, fraction):
    splits = {split_of(text_hash(copy), fraction) for copy in (text, str(text.encode(), "utf-8"))}
    assert len(splits) == 1


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_about_the_fraction_asked_for_is_held_out(fraction):
    held_out = sum(split_of(text_hash(f"document {i}"), fraction) == "eval" for i in range(2000))
    assert abs(held_out / 2000 - fraction) < 0.04


def test_raising_the_fraction_moves_documents_only_from_train_to_eval():
    hashes = [text_hash(f"document {i}") for i in range(200)]
    small, large = ({h for h in hashes if split_of(h, fraction) == "eval"} for fraction in (0.1, 0.3))
    assert small < large
