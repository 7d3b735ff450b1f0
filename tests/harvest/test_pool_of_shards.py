"""Two corpora that share text share its shards: found by content, listed by either manifest, wherever they stand."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.activations.reader import Split
from tasks.harvest.gc import gc
from tasks.harvest.repair import settle, take_out
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.artifacts import read_json, require_manifest, write_manifest
from tasks.storage.objects import open_store
from tasks.text.stored import read_sequences
from tests.composed import harvest
from tests.harvest.conftest import CONTEXT, SPECIAL, Harvested, places, tiny_config
from tests.harvest.test_verify import flip

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

HOOK = "model.layers.0"


def corpus(root: str, name: str, train: list[int], held_out: list[int]) -> str:
    """A tokens directory of segments, each with the tokens that its number stands for, 6 sequences long."""
    uri = f"{root}/tokens/{name}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    ids = np.concatenate([np.random.default_rng(n).integers(1, 50, (6, CONTEXT), np.int32) for n in (*train, *held_out)])
    hashes = [hashlib.blake2b(row.astype("<i4").tobytes(), digest_size=16).digest() for row in ids]
    columns: dict[str, Any] = {
        "token_ids": pa.array(list(ids), pa.list_(pa.int32())),
        "hash": pa.array(hashes, pa.binary(16)),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    open_store(uri).put("sequences.parquet", sink.getvalue())
    cut = {"train": [6] * len(train), "eval": [6] * len(held_out)}
    facts = {"n_sequences": {k: sum(v) for k, v in cut.items()}, "segments": cut, "context_length": CONTEXT}
    write_manifest(uri, {**facts, "special_token_ids": [SPECIAL]})
    return uri


def activations_of(root: str, tokens: str) -> str:
    return f"{root}/activations/{Path(tokens).name}"


@pytest.fixture(scope="module")
def two(harvested: Harvested, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, dict[str, bytes]]:
    """Two nights: the second has an old segment less, and new ones before and behind the others."""
    root = str(tmp_path_factory.mktemp("nights"))
    config, shards = tiny_config(harvested.config.model.name, root), places(root)[0]
    first, second = corpus(root, "one", [1, 2, 3], [4]), corpus(root, "two", [9, 2, 3, 7], [8, 4])
    harvest(config, first, shards, activations_of(root, first), silent)
    before = {info.key: open_store(shards).get(info.key) for info in open_store(shards).list()}
    harvest(config, second, shards, activations_of(root, second), silent)
    return activations_of(root, first), activations_of(root, second), before


def test_only_what_is_new_is_harvested(two: tuple[str, str, dict[str, bytes]]) -> None:
    first, second, before = two
    pool = open_store(places(str(Path(first).parents[1]))[0])
    assert {key: pool.get(key) for key in before} == before
    told = read_json(second, "run.json") or {}
    assert (told["shards"], told["shards_found"]) == (12, 6)  # a segment of 6 sequences is 2 shards
    assert (told["batch_sequences"], told["attention"]) == ([3], ["sdpa"])
    assert len({info.key for info in pool.list("commits/")} - before.keys()) == 6
    assert {info.key for info in open_store(second).list()} == {"manifest.json", "run.json"}


def test_the_second_manifest_is_that_of_a_harvest_from_nothing(
    two: tuple[str, str, dict[str, bytes]], harvested: Harvested, tmp_path: Path
) -> None:
    tokens = corpus(str(tmp_path), "two", [9, 2, 3, 7], [8, 4])
    config, shards = tiny_config(harvested.config.model.name, str(tmp_path), actors=2), places(str(tmp_path))[0]
    harvest(config, tokens, shards, activations_of(str(tmp_path), tokens), silent)
    alone, shared = (open_store(uri).get("manifest.json") for uri in (activations_of(str(tmp_path), tokens), two[1]))
    assert alone == shared


def test_rows_tell_the_sequences_of_the_corpus_that_is_read(two: tuple[str, str, dict[str, bytes]]) -> None:
    for uri in two[:2]:
        tokens = str(Path(uri).parents[1] / "tokens" / Path(uri).name)
        for name in ("train", "eval"):
            split = Split(uri, HOOK, name)
            rows = [split.shard(i) for i in range(len(split.shards))]
            for part, index in zip(rows, range(len(rows)), strict=True):
                ids = np.array(
                    [read_sequences(tokens, int(s), 1)[0][p] for s, p in zip(part.sequence, part.position, strict=True)]
                )
                np.testing.assert_array_equal(part.token_id, ids)
                np.testing.assert_array_equal(split.places(index)[0], part.sequence)


def test_both_verify_clean_and_gc_keeps_what_either_names(two: tuple[str, str, dict[str, bytes]]) -> None:
    first, second, _ = two
    for uri in (first, second, places(str(Path(first).parents[1]))[0]):
        assert verify(uri, silent).findings == []
        assert gc(uri, dry_run=True).removed == []


def test_damage_to_a_shared_shard_is_found_by_both_and_mended_for_both(
    two: tuple[str, str, dict[str, bytes]], harvested: Harvested
) -> None:
    first, second, _ = two
    root = str(Path(first).parents[1])
    shared = {e["key"] for e in listed(first)} & {e["key"] for e in listed(second)}
    pool, key = open_store(places(root)[0]), sorted(shared)[0]
    flip(pool, key)
    for uri in (first, second):
        assert [(f.kind, f.key) for f in verify(uri, silent).findings] == [("damaged", key)]
    take_out(second, silent)
    config, tokens = tiny_config(harvested.config.model.name, root), f"{root}/tokens/{Path(second).name}"
    harvest(config, tokens, places(root)[0], second, silent)
    assert settle(second) is True
    assert [verify(uri, silent).findings for uri in (first, second)] == [[], []]


def listed(uri: str) -> list[dict[str, Any]]:
    splits = require_manifest(uri)["hooks"][HOOK]["splits"]
    return [entry for split in splits.values() for entry in split["shards"]]
