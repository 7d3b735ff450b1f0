import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flows.addresses import addresses
from flows.lake import described_repair, repaired
from tasks.errors import InputError
from tasks.harvest.named import commit_key
from tasks.harvest.repair import BEFORE, Repaired, settle, take_out
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.base import ObjectStore
from tasks.storage.local import LocalStore
from tasks.storage.objects import open_store
from tests.composed import harvest, ingest
from tests.harvest.conftest import Harvested, lake_config
from tests.harvest.test_verify import data_keys, flip, rewrite


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Ingested activations at the address that their configuration gives them."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(256, 5)).astype(np.float32))
    out = addresses(lake_config(tmp_path)).activations
    ingest(lake_config(tmp_path), out, silent)
    return open_store(out)


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key) for info in store.list() if info.key != "run.json"}


def repair(folder: Path) -> Repaired:
    config = lake_config(folder)
    return repaired(config, lambda: ingest(config, addresses(config).activations, silent))


def flipped(store: ObjectStore) -> None:
    flip(store, data_keys(store)[1])


def deleted(store: ObjectStore) -> None:
    store.delete(data_keys(store)[0])
    store.delete(data_keys(store, "eval")[0])


def swapped(store: ObjectStore) -> None:
    first, second = data_keys(store)[:2]
    one, two = store.get(first), store.get(second)
    store.put(first, two)
    store.put(second, one)


def records_lost(store: ObjectStore) -> None:
    store.delete("commits/train-00000.json")
    store.put("commits/train-00001.json", b"{")
    store.put("commits/train-00099.json", store.get("commits/train-00002.json"))


@pytest.mark.parametrize("damage", [flipped, deleted, swapped, records_lost])
def test_repair_restores_identical_content(
    store: ObjectStore, tmp_path: Path, damage: Callable[[ObjectStore], None]
) -> None:
    before = contents(store)
    damage(store)
    found = repair(tmp_path)
    assert found.identical is True
    assert contents(store) == before
    assert "identical to the one before" in described_repair(found)


@pytest.mark.parametrize("data", [b"{", b'{"stage": "tokens"}'])
def test_a_damaged_manifest_is_written_anew_from_the_commit_records(store: ObjectStore, tmp_path: Path, data: bytes) -> None:
    before = contents(store)
    store.put("manifest.json", data)
    found = repair(tmp_path)
    assert (found.redone, found.identical) == ([], None)
    assert contents(store) == before


def test_whole_shards_are_left_alone(store: ObjectStore, tmp_path: Path) -> None:
    written = {info.key: info.modified for info in store.list()}
    key = data_keys(store)[1]
    flip(store, key)
    assert repair(tmp_path).redone == ["commits/train-00001.json"]
    rewritten = {info.key for info in store.list() if info.modified != written[info.key]}
    assert rewritten == {key, "commits/train-00001.json", "manifest.json", "run.json"}


def test_a_clean_directory_is_not_touched(store: ObjectStore, tmp_path: Path) -> None:
    written = {info.key: info.modified for info in store.list()}
    found = repaired(lake_config(tmp_path), lambda: pytest.fail("harvested again"))
    assert {info.key: info.modified for info in store.list()} == written
    assert "nothing to repair" in described_repair(found)


def test_a_manifest_that_comes_out_otherwise_is_said_to(store: ObjectStore, tmp_path: Path) -> None:
    flipped(store)
    rewrite(store, "manifest.json", lambda manifest: manifest["hooks"]["source"].update(note="by hand"))
    found = repair(tmp_path)
    assert found.identical is False
    assert "NOT identical" in described_repair(found)
    assert store.head(BEFORE) is None


@pytest.mark.ray
def test_a_harvest_by_actors_restores_every_hook_of_a_damaged_shard(harvested: Harvested, tmp_path: Path) -> None:
    there = harvested.copied(tmp_path)
    pool = open_store(there.shards)
    before = contents(pool)
    key = [info.key for info in pool.list("model.layers.0/train/")][2]
    flip(pool, key)
    assert take_out(there.out, silent)[1] == [commit_key(key)]
    harvest(there.config, there.tokens, there.shards, there.out, silent)
    assert settle(there.out) is True
    after = contents(pool)
    assert [k for k in before if after[k] != before[k]] == [commit_key(key)]  # it tells other seconds


class Killed(BaseException):
    pass


@pytest.mark.parametrize("harvest_first", [False, True])
@pytest.mark.parametrize("writes", range(9))
def test_killed_before_any_write_the_same_command_ends_as_if_it_had_not_been(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, harvest_first: bool
) -> None:
    before = contents(store)
    flipped(store)
    deleted(store)
    left = [writes]

    def dies(name: str) -> Callable[..., object]:
        real = getattr(LocalStore, name)

        def write(*arguments: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments)

        return write

    with monkeypatch.context() as patched:
        for name in ("put_if_absent", "delete"):
            patched.setattr(LocalStore, name, dies(name))
        try:
            take_out(store.uri, silent)
        except Killed:
            assert writes < 8
    if harvest_first:
        ingest(lake_config(tmp_path), store.uri, silent)
    assert repair(tmp_path).identical is True
    assert contents(store) == before
    assert verify(store.uri, silent).findings == []


def test_nothing_to_repair_before_anything_is_harvested(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((9, 5), np.float32))
    with pytest.raises(InputError, match="neither manifest"):
        repair(tmp_path)


def test_the_command_repairs_and_says_so(store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli import main

    before = contents(store)
    flipped(store)
    settings = tmp_path / "own.yaml"
    settings.write_text(json.dumps(lake_config(tmp_path).model_dump(mode="json")))
    with pytest.raises(SystemExit) as stopped:
        main(["repair", str(settings), "--json"])
    assert stopped.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["identical"], found["redone"]) == (True, ["commits/train-00001.json"])
    assert contents(store) == before
