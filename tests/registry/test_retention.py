"""What goes and what stays, what is freed of a pool, and what is said of it."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.retention import Swept, described_sweep, swept, swept_as_json
from tasks.errors import ArtifactError, InputError
from tasks.registry.config import RegistryConfig
from tasks.registry.inventory import inventory
from tasks.registry.moving import challenge, considered, moves_of, promote, rollback
from tasks.registry.names import REMOVED
from tasks.registry.numbered_log import NumberedLog
from tasks.registry.records import Signed
from tasks.registry.registry import Registry
from tasks.registry.retention import reasons_to_stay
from tasks.registry.storage_forecast import added_by_night
from tasks.registry.tagging import tag
from tasks.storage.artifacts import MANIFEST, read_manifest
from tasks.storage.base import ObjectInfo
from tasks.storage.objects import open_store
from tests.registry.stored import (
    NOW,
    add,
    address,
    keys,
    make_champion,
    store_activations,
    store_report,
    store_sae,
    store_scores,
)

LAST_ONE = RegistryConfig(name="toy", keep_versions=1, keep_champion_days=0)
NAMES = "abcdefgh"


def days_ago(days: float) -> Signed:
    return NOW.model_copy(update={"when": NOW.when - timedelta(days=days)})


def sweep(root: str, dry_run: bool = False, **settings: Any) -> Swept:
    return swept(root, LAST_ONE.model_copy(update=settings), NOW, dry_run=dry_run)


def gone(found: Swept) -> set[str]:
    """What of a storage went, as stage/name."""
    return {fate.result.uri.removeprefix(f"{found.root}/") for fate, _ in found.removed}


def of(stage: str, *names: str) -> set[str]:
    return {address("", stage, name)[1:] for name in names}


@pytest.fixture
def eight(folder: str) -> Registry:
    """Versions a to h, each of activations of its own."""
    registry = Registry.at(folder, "toy")
    for name in NAMES:
        store_activations(folder, f"rows-{name}")
        add(registry, store_sae(folder, name, f"rows-{name}"))
    return registry


def stays(registry: Registry, **settings: Any) -> dict[int, list[str]]:
    return reasons_to_stay(registry, LAST_ONE.model_copy(update=settings), NOW.when)


def test_each_rule_keeps_its_versions(eight: Registry) -> None:
    assert stays(eight, keep_versions=2) == {7: ["one of the last 2"], 8: ["one of the last 2"]}
    for version, days in ((1, 200), (2, 150), (3, 100), (4, 80), (5, 10)):
        make_champion(eight, version, days_ago(days))
    challenge(eight, 6, NOW)
    tag(eight, 1, "keep", NOW)
    found = stays(eight, keep_champion_days=90)
    assert {version: len(reasons) for version, reasons in found.items()} == {1: 1, 3: 1, 4: 2, 5: 1, 6: 1, 8: 1}
    assert found[5] == ["champion"]
    assert found[4][0] == "a rollback goes there"
    assert found[3][0].startswith("champion until")
    rollback(eight, NOW)
    assert 3 in stays(eight), "the next rollback goes there, however long ago it was champion"


def test_the_version_that_one_that_stays_began_from_stays_but_not_those_before_it(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    for before, name in enumerate("abcd"):
        add(registry, store_sae(folder, name), started_from=before or None)
    assert stays(registry) == {4: ["one of the last 1"], 3: ["toy@4 was trained from it"]}


def test_with_a_version_go_its_report_its_scores_and_activations_that_nothing_else_needs(eight: Registry) -> None:
    root = eight.root
    for name in ("a", "h"):
        sae = address(root, "saes", name)
        store_scores(root, sae, activations=f"rows-{name}")
        store_report(root, sae, activations=f"rows-{name}")
    store_sae(root, "unregistered", "rows-b")
    found = sweep(root)
    expected = of("saes", *NAMES[:7]) | of("activations", *(f"rows-{name}" for name in "acdefg"))
    assert {entry for entry in gone(found) if not entry.startswith(("scores", "reports"))} == expected
    assert sorted(key.partition("/")[0] for key in gone(found) if key.startswith(("scores", "reports"))) == [
        "reports",
        "scores",
    ]
    left = {result.uri.removeprefix(f"{root}/") for result in inventory(root).results}
    assert of("saes", "h", "unregistered") | of("activations", "rows-b", "rows-h") <= left
    assert len(left) == 6
    reasons = {fate.result.uri: fate.reason for fate in found.kept}
    assert reasons[address(root, "activations", "rows-b")].endswith("is made of them")
    assert found.size == sum(size for _, size in found.removed) > 0
    assert sweep(root).removed == []
    assert not list(Path(root).glob(f"saes/*/{REMOVED}"))


def test_a_dry_run_says_the_same_bytes_and_removes_nothing(eight: Registry) -> None:
    before = keys(eight.root)
    told = sweep(eight.root, dry_run=True)
    assert keys(eight.root) == before
    stored = sum(info.size for info in open_store(eight.root).list())
    done = sweep(eight.root)
    assert (gone(told), told.size) == (gone(done), done.size)
    assert stored - done.size == sum(info.size for info in open_store(eight.root).list())
    lines = described_sweep(told).splitlines()
    assert f"would remove 14 directories, {told.size:,} bytes" in lines
    assert any("never champion, not one of the last 1, no alias, not tagged keep" in line for line in lines)
    assert swept_as_json(told)["bytes"] == told.size


def test_what_another_registry_names_stays(eight: Registry) -> None:
    add(Registry.at(eight.root, "other"), address(eight.root, "saes", "a"))
    left = gone(sweep(eight.root))
    assert not left & (of("saes", "a") | of("activations", "rows-a"))
    assert of("saes", "b") <= left


def test_saes_that_lie_elsewhere_and_unfinished_ones_are_left(folder: str, tmp_path: Path) -> None:
    registry = Registry.at(folder, "toy")
    elsewhere = store_sae(f"{tmp_path}/other", "a")
    add(registry, elsewhere)
    again = store_sae(folder, "b")
    add(registry, again)
    open_store(again).delete(MANIFEST)  # as if it was removed once and is being trained anew
    add(registry, store_sae(folder, "c"))
    assert gone(sweep(folder)) == set()
    assert read_manifest(elsewhere) is not None
    assert open_store(again).head("sae.safetensors") is not None


@pytest.mark.parametrize("hours, kept", [(1, True), (25, False)])
def test_what_is_not_finished_and_young_keeps_activations(hours: float, kept: bool, eight: Registry) -> None:
    young = Path(eight.root, "saes/toy-unfinished/checkpoints/step-1/state.json")
    young.parent.mkdir(parents=True)
    young.write_text("{}")
    os.utime(young, times=(time.time() - 3600 * hours,) * 2)
    assert (of("activations", "rows-a") <= gone(sweep(eight.root))) != kept
    assert young.exists()


@pytest.mark.parametrize(
    ("young", "stays"),
    [
        (None, False),
        ("lakes/toy-x/shards/m-1/layer/train/1.parquet", True),
        ("lakes/toy-x/windows/toy-x.000001/manifest.json", True),
        ("windows/toy-x.000002/manifest.json", True),
        ("saes/toy-x/checkpoints/step-1/state.json", True),
        ("saes/toy-x/manifest.json", True),
        ("saes/toy-y/checkpoints/step-1/state.json", False),
        ("windows/toy-x0.000001/manifest.json", False),
    ],
)
def test_a_lake_goes_when_nothing_of_it_and_of_its_sae_is_young(young: str | None, stays: bool, eight: Registry) -> None:
    lake = [
        "lakes/toy-x/shards/m-1/commits/1.json",
        "lakes/toy-x/shards/m-1/layer/train/1.parquet",
        "lakes/toy-x/windows/toy-x.000001/manifest.json",
        "windows/toy-x.000002/manifest.json",
    ]
    for key in {*lake, "saes/toy-x/checkpoints/step-0/state.json", young or lake[0]}:
        path = Path(eight.root, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        if key != young:
            os.utime(path, times=(time.time() - 3600 * 25,) * 2)
    told, found = sweep(eight.root, dry_run=True, keep_versions=8), sweep(eight.root, keep_versions=8)
    assert gone(told) == gone(found) == (set() if stays else {"lakes/toy-x", "windows/toy-x.000002"})
    assert [key for key in lake if Path(eight.root, key).exists()] == (lake if stays else [])
    assert young is None or Path(eight.root, young).exists()
    assert Path(eight.root, "saes/toy-x/checkpoints/step-0/state.json").exists()
    assert any(fate.result.stage == "lakes" for fate in found.kept) == stays


def test_of_a_pool_only_shards_that_nothing_else_names_go(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    for name, shards in {"a": ["1", "22"], "b": ["22", "333"], "c": ["333", "4444"]}.items():
        store_activations(folder, f"rows-{name}", shards)
        add(registry, store_sae(folder, name, f"rows-{name}"))
    store_activations(folder, "unregistered", ["1"])
    pool = {key: open_store(folder).get(key) for key in keys(folder, "shards/")}
    told = sweep(folder, dry_run=True)
    stored = sum(info.size for info in open_store(folder).list())
    done = sweep(folder)
    assert told.size == done.size == stored - sum(info.size for info in open_store(folder).list())
    left = {open_store(folder).get(key) for key in keys(folder, "shards/") if "/layer/" in key}
    assert left == {b"1", b"333", b"4444"}
    assert len(keys(folder, "shards/")) == len(pool) - 2
    assert of("activations", "rows-a", "rows-b") <= gone(done)


def test_a_pool_in_which_a_harvest_may_be_at_work_is_left(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    for name in ("a", "b"):
        store_activations(folder, f"rows-{name}", [f"{name}-1", "common"])
        add(registry, store_sae(folder, name, f"rows-{name}"))
    pool = Path(folder, "shards").iterdir().__next__()
    record = pool / "commits/train-00000000.json"
    record.write_text("{}")
    found = sweep(folder)
    assert gone(found) == of("saes", "a")
    assert any("a harvest may be at work in its pool" in fate.reason for fate in found.kept)
    os.utime(record, times=(time.time() - 25 * 3600,) * 2)
    assert gone(sweep(folder)) == of("activations", "rows-a")


def test_tokens_that_are_not_harvested_yet_keep_activations_for_a_day(eight: Registry) -> None:
    tokens = Path(eight.root, "tokens/toy-0123456789ab")
    tokens.mkdir(parents=True)
    (tokens / MANIFEST).write_text("{}")
    assert not of("activations", "rows-a") & gone(sweep(eight.root))
    os.utime(tokens / MANIFEST, times=(time.time() - 25 * 3600,) * 2)
    assert of("activations", "rows-a") <= gone(sweep(eight.root))


def test_a_version_that_is_promoted_or_tagged_meanwhile_stays(eight: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open_store(eight.root).__class__.put

    def put(store: Any, key: str, data: bytes) -> None:
        if key == REMOVED and store.uri == address(eight.root, "saes", "a"):
            tag(eight, 1, "keep", NOW)
        real(store, key, data)

    monkeypatch.setattr(open_store(eight.root).__class__, "put", put)
    found = sweep(eight.root)
    assert not (of("saes", "a") | of("activations", "rows-a")) & gone(found)
    assert of("saes", "b") | of("activations", "rows-b") <= gone(found)
    considered(eight, 1)


def test_a_promotion_gives_way_to_a_removal_that_began_just_before(eight: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    make_champion(eight, 8)
    found, real = considered(eight, 1), NumberedLog.append

    def append(log: Any, number: int, record: Any) -> bool:
        open_store(address(eight.root, "saes", "a")).put(REMOVED, b"{}")
        return real(log, number, record)

    monkeypatch.setattr(NumberedLog, "append", append)
    with pytest.raises(InputError, match="The SAE of toy@1 is being removed"):
        promote(eight, found, NOW)
    assert [(move.action, move.version) for move in moves_of(eight)][1:] == [("promote", 1), ("rollback", 8)]


def test_what_is_about_to_go_cannot_be_promoted_until_the_mark_is_dropped(eight: Registry) -> None:
    open_store(address(eight.root, "saes", "a")).put(REMOVED, b"{}")
    with pytest.raises(InputError, match="The SAE of toy@1 is being removed"):
        considered(eight, 1)
    sweep(eight.root, keep_versions=8)
    considered(eight, 1)


def test_nothing_is_removed_where_a_manifest_or_a_record_is_damaged(eight: Registry) -> None:
    before = keys(eight.root)
    for key, data in {"registry/toy/versions/00000003.json": b"{", "scores/x/manifest.json": b"["}.items():
        old = open_store(eight.root).get(key) if key.startswith("registry") else None
        open_store(eight.root).put(key, data)
        with pytest.raises(ArtifactError, match="is not valid JSON"):
            sweep(eight.root)
        if old is not None:
            open_store(eight.root).put(key, old)
    assert [key for key in keys(eight.root) if key != "scores/x/manifest.json"] == before


def test_a_night_adds_what_was_written_since_the_version_before() -> None:
    dates = [NOW.when - timedelta(days=days) for days in (3, 2, 1, 0.96, 0)]

    def info(days: float, size: int) -> ObjectInfo:
        return ObjectInfo(str(days), size, (NOW.when - timedelta(days=days)).timestamp())

    objects = [info(9, 1000), info(2.5, 10), info(2.1, 1), info(1.5, 7), info(0.97, 5), info(0.5, 3), info(-1, 99)]
    assert added_by_night(objects, dates) == [11, 12, 3]
    assert added_by_night(objects, dates[:1]) == added_by_night(objects, []) == []


def test_the_forecast_says_when_the_disk_is_full(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    for days, name in ((2, "a"), (1, "b"), (0, "c")):
        uri = store_sae(folder, name, size=1000 * (3 - days))
        add(registry, uri, days_ago(days))
        for path in Path(uri).rglob("*"):
            os.utime(path, times=(NOW.when.timestamp() - 86_400 * days - 60,) * 2)
    for path in Path(folder, "registry").rglob("*"):
        os.utime(path, times=(NOW.when.timestamp() + 60,) * 2)
    found = sweep(folder, dry_run=True).forecast
    sizes = [
        sum(path.stat().st_size for path in Path(address(folder, "saes", name)).rglob("*") if path.is_file())
        for name in "bc"
    ]
    assert (found.nights, found.per_night) == (2, sum(sizes) / 2)
    assert found.free is not None and found.free > 0
    assert found.full_in_nights == pytest.approx(found.free / found.per_night)
    assert found.by_stage.keys() == {"registry", "saes"}
    assert "full in" in described_sweep(sweep(folder, dry_run=True))


def test_an_unknown_registry_is_refused(folder: str) -> None:
    with pytest.raises(InputError, match="There is no registry 'toy'"):
        sweep(folder)
