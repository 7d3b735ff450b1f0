"""Promotions, rollbacks and the challenger: what each leaves, and what of two at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks.errors import ArtifactError, InputError
from tasks.registry.moving import challenge, considered, moves_of, position, promote, rollback
from tasks.registry.reference import resolve
from tasks.registry.registry import Registry
from tasks.registry.verdicts import VersionVerdict, store_verdict, verdict_of
from tasks.storage.objects import open_store
from tests.registry.stored import NOW, add, hashed, make_champion, store_sae


def champion(registry: Registry, steps: int = 0) -> int:
    """The champion, or what it was so many promotions ago."""
    uri = resolve(f"toy@champion~{steps}" if steps else "toy@champion", registry.root)
    return next(number for number, version in registry.versions.all() if registry.uri_of(version) == uri)


def test_each_rollback_goes_one_promotion_further_back_and_never_there_and_back(three_anywhere: Registry) -> None:
    for version in (1, 2, 3):
        make_champion(three_anywhere, version)
    assert [champion(three_anywhere, steps) for steps in range(3)] == [3, 2, 1]
    assert rollback(three_anywhere, NOW).version == 2
    assert [champion(three_anywhere, steps) for steps in range(2)] == [2, 1]
    assert rollback(three_anywhere, NOW).version == 1
    with pytest.raises(InputError, match="is version 1, and there was no promotion of an earlier one"):
        rollback(three_anywhere, NOW)
    make_champion(three_anywhere, 3)
    assert [champion(three_anywhere, steps) for steps in range(2)] == [3, 1]
    assert rollback(three_anywhere, NOW).version == 1
    moves = [(move.action, move.previous, move.version) for move in moves_of(three_anywhere)]
    assert moves == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("promote", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
        ("promote", 1, 3),
        ("rollback", 3, 1),
    ]


def test_a_version_that_was_promoted_twice_is_undone_once_at_a_time(three: Registry) -> None:
    for version in (1, 2, 1):
        make_champion(three, version)
    assert rollback(three, NOW).version == 2
    assert rollback(three, NOW).version == 1


def test_a_rollback_to_a_version_may_be_given_twice(three: Registry) -> None:
    for version in (1, 2, 3):
        make_champion(three, version)
    assert rollback(three, NOW, to=1).version == 1
    assert rollback(three, NOW, to=1).version == 1
    assert len(three.moves("champion").numbers()) == 4
    with pytest.raises(InputError, match="no promotion of version 2 below it"):
        rollback(three, NOW, to=2)


def test_promoting_the_champion_writes_nothing(three: Registry) -> None:
    make_champion(three, 2)
    make_champion(three, 2)
    assert three.moves("champion").numbers() == [1]


def test_without_a_champion_there_is_nothing_to_roll_back(three: Registry) -> None:
    with pytest.raises(InputError, match="toy has no champion"):
        rollback(three, NOW)


@pytest.mark.parametrize(
    "second", [lambda registry, found: promote(registry, found, NOW), lambda registry, _: rollback(registry, NOW)]
)
def test_who_comes_second_is_told_who_was_first(
    second: Callable[..., Any], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.at(folder, "toy")
    for name in ("a", "b", "c", "d"):
        add(registry, store_sae(folder, name))
    make_champion(registry, 1)
    make_champion(registry, 2)
    found, before = considered(registry, 3), position(registry, "champion")
    make_champion(registry, 4)
    monkeypatch.setattr("tasks.registry.moving.position", lambda *_: before)  # as it was looked at
    with pytest.raises(InputError, match="at the same time ada@engine promoted version 4"):
        second(registry, found)
    monkeypatch.undo()
    assert champion(registry) == 4


def test_of_many_promotions_at_once_exactly_one_wins(three_anywhere: Registry) -> None:
    for name in ("d", "e", "f", "g", "h"):
        add(three_anywhere, store_sae(three_anywhere.root, name))
    found = [considered(three_anywhere, version) for version in range(1, 9)]

    def attempt(promotion: Any) -> int | None:
        try:
            return promote(three_anywhere, promotion, NOW).version
        except InputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [version for version in pool.map(attempt, found) if version is not None]
    assert len(won) == 1
    assert champion(three_anywhere) == won[0]
    assert three_anywhere.moves("champion").numbers() == [1]


def test_the_challenger_never_goes_back(three: Registry) -> None:
    assert [challenge(three, version, NOW).version for version in (2, 3, 2, 3)] == [2, 3, 3, 3]
    assert three.moves("challenger").numbers() == [1, 2]
    assert resolve("toy@challenger", three.root).endswith(hashed("c"))


def test_a_champion_whose_files_changed_or_are_gone_is_refused(three: Registry) -> None:
    make_champion(three, 1)
    make_champion(three, 2)
    store = open_store(three.uri_of(three.version(3)))
    store.put("config.json", b"{}")
    with pytest.raises(ArtifactError, match="is not the SAE that was registered as toy@3"):
        considered(three, 3)
    store.delete("sae.safetensors")
    with pytest.raises(InputError, match=r"The SAE of toy@3 is gone: .* has no sae\.safetensors"):
        considered(three, 3)
    open_store(three.uri_of(three.version(1))).delete("config.json")
    with pytest.raises(InputError, match="The SAE of toy@1 is gone"):
        rollback(three, NOW)
    assert champion(three) == 2


def verdict(version: int, said: str, against: int | None = 1) -> VersionVerdict:
    gates = ({"metric": "fvu", "outcome": "loss" if said == "REJECT" else "tie"},)
    return VersionVerdict.model_validate(
        {"name": "toy", "version": version, "against": against, "verdict": said, "gates": gates}
    )


def test_a_rejected_version_is_promoted_only_by_force_which_is_recorded(three: Registry) -> None:
    make_champion(three, 1)
    stored = store_verdict(three.root, verdict(2, "REJECT"), NOW)
    with pytest.raises(InputError, match="toy@2 was rejected: its verdict against version 1 is REJECT by fvu"):
        considered(three, 2)
    move = promote(three, considered(three, 2, force=True), NOW, "we know better", force=True)
    assert (move.forced, move.verdict, move.why, move.rollback_to) == (True, stored.key, "we know better", 1)


@pytest.mark.parametrize("said", ["PROMOTE", "HOLD"])
def test_another_verdict_stops_nobody_and_is_named_in_the_move(said: str, three: Registry) -> None:
    stored = store_verdict(three.root, verdict(2, said, None), NOW)
    move = promote(three, considered(three, 2, force=True), NOW, force=True)
    assert (move.forced, move.verdict) == (False, stored.key)


def test_the_verdict_against_the_present_champion_counts_before_others(three: Registry) -> None:
    store_verdict(three.root, verdict(3, "REJECT", 1), NOW)
    later = NOW.model_copy(update={"by": "b"})
    store_verdict(three.root, verdict(3, "HOLD", 2), later)
    assert [_said(three, against) for against in (1, 2)] == ["REJECT", "HOLD"]
    assert verdict_of(three.root, "toy", 1) is None


def _said(registry: Registry, against: int) -> str:
    found = verdict_of(registry.root, "toy", 3, against)
    assert found is not None
    return found.verdict


def test_the_same_verdict_stored_again_is_one(three: Registry) -> None:
    first = store_verdict(three.root, verdict(2, "HOLD"), NOW)
    again = store_verdict(three.root, verdict(2, "HOLD"), NOW.model_copy(update={"by": "another"}))
    assert first == again
    assert len(list(three.store.list("verdicts/"))) == 1
    with pytest.raises(InputError, match="toy has no version 9"):
        store_verdict(three.root, verdict(9, "HOLD"), NOW)
