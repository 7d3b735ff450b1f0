from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.multi_hook import JoinedSplit, open_split
from tasks.activations.reader import Split
from tasks.activations.schema import Dtype, RowFormat, from_float32, to_float32
from tasks.activations.writer import Rows, encode_shard
from tasks.errors import ArtifactError
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store

HOOKS = {"early": 3, "middle": 2, "late": 5}
SHARDS = [50, 33, 41]

Store = Callable[..., str]


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    """Three hooks of one harvest: token n has the activation n * (1, 2, ..) at each, times 10 and 100 at the later two.

    ``without`` are tokens left out at a hook, ``moved`` one whose shard is in another order there.
    """

    def store(dtype: Dtype = "float32", without: Sequence[int] = (), moved: str = "") -> str:
        uri = str(tmp_path / "activations")
        hooks = {}
        for factor, (hook, width) in zip((1, 10, 100), HOOKS.items(), strict=True):
            shards, first = [], 0
            for index, rows in enumerate(SHARDS):
                tokens = np.random.default_rng(index).permutation(np.arange(first, first + rows))
                tokens = tokens[~np.isin(tokens, without if hook == "late" else ())]
                tokens = tokens[::-1] if hook == moved and index == 1 else tokens
                shards.append(put(uri, hook, index, tokens, factor * np.arange(1, width + 1), dtype))
                first += rows
            split = {"rows": sum(shard["rows"] for shard in shards), "shards": shards}
            statistics = {"statistics": {"train": {"mean": [float(factor)] * width, "variance": 1.0, "median_norm": 1.0}}}
            hooks[hook] = {
                "d_in": width,
                "dtype": dtype,
                "splits": {"train": split, "eval": {"rows": 0, "shards": []}},
                **statistics,
            }
        write_manifest(uri, {"hooks": hooks})
        return uri

    return store


def put(uri: str, hook: str, index: int, tokens: np.ndarray, direction: np.ndarray, dtype: Dtype) -> dict[str, object]:
    activation = (tokens[:, None] * direction).astype(np.float32)
    places = (tokens.astype(np.int32), (tokens // 4).astype(np.int64), (tokens % 4).astype(np.int32))
    row_format = RowFormat(len(direction), dtype, hook, "model", "main", "0" * 12)
    encoded = encode_shard(Rows(from_float32(activation, dtype), *places), row_format, 7)
    key = f"{hook}/train/{index:05d}-{encoded.sha256[:12]}.parquet"
    open_store(uri).put(key, encoded.data)
    sizes = {"size": len(encoded.data), "rows": encoded.rows, "row_groups": encoded.row_groups, "first_sequence": 0}
    return {"key": key, "sha256": encoded.sha256, **sizes}


def lanes(uri: str, hooks: str | list[str], rank: int = 0, world_size: int = 1) -> LaneReader:
    return LaneReader(uri, hooks, batch_rows=16, lanes=8, seed=3, rank=rank, world_size=world_size)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_every_row_holds_the_same_token_at_all_hooks(stored: Store, dtype: Dtype) -> None:
    split = JoinedSplit(stored(dtype), list(HOOKS), "train")
    for index, rows in enumerate(SHARDS):
        found = split.shard(index)
        numbers = to_float32(found.activation, split.dtype)
        assert numbers.shape == (rows, 10)
        expected = np.concatenate([factor * np.arange(1, width + 1) for factor, width in ((1, 3), (10, 2), (100, 5))])
        np.testing.assert_allclose(numbers, found.token_id[:, None] * expected, rtol=2e-2)  # int8: 1 in 254 of the largest
        assert (found.sequence * 4 + found.position).tolist() == found.token_id.tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 4)])
def test_batches_are_those_of_each_hook_side_by_side(stored: Store, dtype: Dtype, rank: int, world_size: int) -> None:
    uri = stored(dtype)
    joined = lanes(uri, ["late", "early"], rank, world_size)
    alone = [lanes(uri, hook, rank, world_size).batches(5, 20) for hook in ("late", "early")]
    for together, *apart in zip(joined.batches(5, 20), *alone, strict=True):
        numbers = to_float32(together, joined.split.dtype)
        assert np.array_equal(numbers, np.concatenate([to_float32(rows, dtype) for rows in apart], axis=1))


def test_several_hooks_resume_as_one_does(stored: Store) -> None:
    uri = stored()
    whole = [batch.tolist() for batch in lanes(uri, list(HOOKS)).batches(0, 25)]
    assert [batch.tolist() for batch in lanes(uri, list(HOOKS)).batches(17, 8)] == whole[17:]


def test_columns_say_where_the_hooks_lie(stored: Store) -> None:
    split = JoinedSplit(stored(), ["early", "middle", "late"], "train")
    assert split.columns(["early"]) == slice(0, 3)
    assert split.columns(["middle", "late"]) == slice(3, 10)
    assert [part.d_in for part in split.parts] == [3, 2, 5]
    assert split.d_in == 10


def test_a_single_hook_is_read_as_it_always_was(stored: Store) -> None:
    uri = stored("int8")
    found = open_split(uri, ["middle"], "train")
    assert type(found) is Split
    assert [part.statistics["mean"] for part in lanes(uri, "middle").split.parts] == [[10.0, 10.0]]


def test_parts_of_a_shard_are_read_alone(stored: Store) -> None:
    split = JoinedSplit(stored(), ["early", "late"], "train")
    assert np.array_equal(split.shard(1, 5, 12).activation, split.shard(1).activation[5:12])


def test_hooks_that_hold_other_tokens_are_refused_by_the_manifest(stored: Store) -> None:
    with pytest.raises(ArtifactError, match=r"same tokens at 'early' and 'late' \(train, as the manifest says\)"):
        lanes(stored(without=[7, 60]), ["early", "late"])


def test_as_many_tokens_in_another_order_are_found_when_they_are_read(stored: Store) -> None:
    split = JoinedSplit(stored(moved="late"), ["early", "late"], "train")
    assert len(split.shard(0)) == 50
    with pytest.raises(ArtifactError, match=r"'early' and 'late' \(late/train/00001"):
        split.activations(split.units()[9])


def test_the_background_thread_hands_the_refusal_on(stored: Store) -> None:
    with pytest.raises(ArtifactError, match=r"same tokens at 'early' and 'middle'.*saemill verify"):
        list(lanes(stored(moved="middle"), ["early", "middle"]).batches(0, 8))


def test_places_are_compared_once_per_shard(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, asked = stored(), []
    read = Split.places
    monkeypatch.setattr(Split, "places", lambda self, index: (asked.append(index), read(self, index))[1])
    list(lanes(uri, ["early", "late"]).batches(0, 40))
    assert sorted(asked) == [0, 0, 1, 1, 2, 2]


@pytest.mark.s3
def test_several_hooks_come_from_s3_as_from_disk(stored: Store, s3: str) -> None:
    uri, there = stored(), f"{s3}/joined/activations"
    for info in open_store(uri).list():
        open_store(there).put(info.key, open_store(uri).get(info.key))
    found = [batch.tolist() for batch in lanes(there, ["late", "early"]).batches(3, 30)]
    assert found == [batch.tolist() for batch in lanes(uri, ["late", "early"]).batches(3, 30)]
