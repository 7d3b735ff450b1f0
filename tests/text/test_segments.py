import hashlib
import itertools
import math
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.config import PipelineConfig
from tasks.progress import silent
from tasks.storage.artifacts import read_manifest
from tasks.text.documents import Document
from tasks.text.pack import text_hash
from tasks.text.segments import Cuts
from tests.composed import tokenize

SETTINGS = {"context_length": 8, "eval_fraction": 0.4, "segment_tokens": 1500}


@pytest.fixture
def segments_of(write, bytes_model, tmp_path):
    """Packs files of these texts, by name; returns the segments of both splits: (split, hashes of the sequences)."""
    runs = itertools.count()

    def pack(files, **settings):
        run = f"run-{next(runs)}"
        for name, texts in files.items():
            write(f"{run}/in/{name}", [{"text": text} for text in texts])
        text = {"source": str(tmp_path / run / "in"), **SETTINGS, **settings}
        out = tmp_path / run / "out"
        tokenize(PipelineConfig(model={"name": str(bytes_model)}, text=text), str(out), silent)
        return read_segments(out)

    return pack


def read_segments(out):
    hashes = pq.read_table(out / "sequences.parquet")["hash"].to_pylist()
    manifest = read_manifest(str(out))
    lengths = [(split, n) for split in ("train", "eval") for n in manifest["segments"][split]]
    for split in ("train", "eval"):
        assert sum(manifest["segments"][split]) == manifest["n_sequences"][split]
    ends = itertools.accumulate(n for _, n in lengths)
    return [(split, tuple(hashes[end - n : end])) for (split, n), end in zip(lengths, ends, strict=True)]


def texts(name, n=120):
    rng = random.Random(name)
    return [f"{name} {i} " + "x" * rng.randrange(60) for i in range(n)]


FILES = {f"{name}.jsonl": texts(name) for name in "abcd"}


def files(names):
    return {f"{name}.jsonl": FILES[f"{name}.jsonl"] for name in names}


def test_a_file_more_at_either_end_or_in_between_leaves_the_other_files_segments_as_they_were(segments_of):
    alone = {name: set(segments_of(files(name))) for name in "abcd"}
    for names in ("abc", "abcd", "bcd", "acd"):
        together = segments_of(files(names))
        for name in names:  # each of these files is large, so that it begins and ends with a cut
            assert alone[name] <= set(together)
        assert len(together) == sum(len(alone[name]) for name in names)
    assert all(len(segments) >= 4 for segments in alone.values())


def test_small_files_share_segments_and_a_change_is_felt_no_further_than_the_next_cut(segments_of):
    small = {f"{i:03d}.jsonl": texts(str(i), 3) for i in range(150)}
    before = segments_of(small)
    assert 4 < len(before) < 60
    for change in ({"075.jsonl": None}, {"075x.jsonl": texts("new", 3)}, {"075.jsonl": texts("other", 2)}):
        after = segments_of({name: rows for name, rows in sorted((small | change).items()) if rows is not None})
        gone, new = set(before) - set(after), set(after) - set(before)
        for split in ("train", "eval"):
            assert sum(s == split for s, _ in gone) <= 2
            assert sum(s == split for s, _ in new) <= 2
        assert gone | new


def test_a_row_more_at_the_end_of_a_file_leaves_what_was_cut_before_it(segments_of):
    before = segments_of(files("a"), shuffle_documents=False)
    longer = {"a.jsonl": [*FILES["a.jsonl"], "one more"]}
    after = segments_of(longer, shuffle_documents=False)
    for split in ("train", "eval"):
        ours, theirs = ([hashes for s, hashes in segments if s == split] for segments in (before, after))
        assert ours[:-1] == theirs[: len(ours) - 1]


def test_the_order_within_a_file_follows_its_content_and_the_seed_but_not_its_name_or_neighbours(segments_of):
    one, other = segments_of(files("a")), segments_of({"z.jsonl": FILES["a.jsonl"]})
    assert one == other
    assert one != segments_of(files("a"), seed=1)
    assert one != segments_of(files("a"), shuffle_documents=False)


def test_a_sample_is_one_segment(segments_of):
    sampled = segments_of(files("abcd"), max_tokens=100_000)
    assert [split for split, _ in sampled] == ["train", "eval"]
    ordered = segments_of(files("abcd"), max_tokens=100_000, shuffle_documents=False)
    assert len(ordered) > 8


def test_the_first_tokens_of_a_corpus_in_order_are_those_of_the_whole(segments_of):
    whole = segments_of(files("ab"), shuffle_documents=False)
    part = segments_of(files("ab"), shuffle_documents=False, max_tokens=4000)
    for split in ("train", "eval"):
        ours = [hashes for s, hashes in part if s == split]
        theirs = [hashes for s, hashes in whole if s == split]
        assert ours[:-1] == theirs[: len(ours) - 1]
        assert ours[-1] == theirs[len(ours) - 1][: len(ours[-1])]


def test_cuts_come_about_once_per_segment_tokens():
    cuts = Cuts(context_length=8, segment_tokens=1000)
    n = sum(cuts.after(text_hash(str(i)), 10) for i in range(20_000))
    assert abs(n - 200) < 4 * math.sqrt(200)


def test_cuts_fall_behind_documents_of_both_splits():
    found = {"train": 0, "eval": 0}
    for i in range(4000):
        sha256 = text_hash(str(i))
        cut = Cuts(8, 1000).after(sha256, 100)
        found["eval" if int(sha256[:16], 16) < 2**63 else "train"] += cut
    assert abs(found["eval"] - found["train"]) < 4 * math.sqrt(400)


def test_a_document_as_long_as_a_segment_always_ends_one():
    assert all(Cuts(8, 1000).after(text_hash(str(i)), 1000) for i in range(100))


@pytest.mark.parametrize(("n_tokens", "cut"), [(256 * 8, True), (256 * 8 - 1, False)])
def test_a_file_of_256_sequences_always_ends_a_segment_and_a_smaller_one_rarely(n_tokens, cut):
    cuts = Cuts(context_length=8, segment_tokens=10**12)
    assert not cuts.before(Document("a", "", "a.jsonl"))
    assert not cuts.after(text_hash("a"), n_tokens - 1)
    assert not cuts.before(Document("b", "", "a.jsonl"))
    assert not cuts.after(text_hash("b"), 1)
    assert cuts.before(Document("c", "", "c.jsonl")) is cut
    assert not cuts.after(text_hash("c"), 1)
    assert not cuts.before(Document("d", "", "d.jsonl"))  # the count began anew with the file


def test_the_hash_of_a_sequence_is_that_of_its_token_ids(segments_of, tmp_path):
    segments_of(files("a"))
    rows = pq.read_table(tmp_path / "run-0/out/sequences.parquet").to_pylist()
    for row in rows:
        ids = np.array(row["token_ids"], "<i4").tobytes()
        assert row["hash"] == hashlib.blake2b(ids, digest_size=16).digest()
