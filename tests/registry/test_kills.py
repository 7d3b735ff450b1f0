"""kill -9 before and after whatever a command asks of the storage, and in the midst of a write.

What is left is valid, and the same command ends as it would have. And two promotions at once, in two processes. Each life
is a fork that kills itself at its n-th step, for n from 1 on until it comes to its end.
"""

import contextlib
import itertools
import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tasks.storage.local as local
from flows.addresses import Addresses
from flows.cli import main
from flows.config import parse_config
from flows.registered import registered
from flows.registry import promoted, rolled_back
from flows.retention import swept
from tasks.registry import resolve
from tasks.registry.config import RegistryConfig
from tasks.registry.moving import moves_of, position
from tasks.registry.numbered_log import NumberedLog
from tasks.registry.registry import Registry
from tasks.storage.artifacts import MANIFEST
from tasks.storage.local import LocalStore
from tasks.storage.objects import open_store
from tasks.storage.s3 import S3Store
from tests.kills.forks import ended
from tests.patience import until
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
from tests.sampled import every_case, seed

VERBS = ("get", "put", "put_if_absent", "list", "head", "delete")
EVERY = {"disk": 6, "s3": 24, "removal": 40}
"""make test takes one step of so many, others with each commit; make test-all takes all. On S3 a life needs a new client."""


def forked(work: Callable[[], Any]) -> int:
    """A process that does this; its id. It ends with the exit code of a command, 0 where nothing is raised."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def killed_at(step: int, work: Callable[[], Any]) -> bool:
    """Do this in a process that kills itself at a step; whether it came so far."""

    def life() -> None:
        _arm(step)
        work()

    code = ended(forked(life))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _arm(step: int) -> None:
    """Strike before and after every verb of a store, and before a file that is written gets its name."""
    count = itertools.count(1)

    def strike() -> None:
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            strike()
            found = real(*arguments, **named)
            found = iter(list(found)) if name == "list" else found
            strike()
            return found

        setattr(owner, name, wrapped)

    for store in (LocalStore, S3Store):
        for verb in VERBS:
            around(store, verb)
    for step_of_write in ("fsync", "link", "replace"):
        around(local.os, step_of_write)


@dataclass(frozen=True)
class Trial:
    """A command whose processes are killed."""

    make: Callable[[str], str]
    """Fills an empty storage."""
    work: Callable[[str], object]
    check: Callable[[str], object]
    """What must hold after a kill."""
    final: Callable[[str], object]
    """What must be equal in the end."""

    def survive(self, root: str, every: int) -> int:
        """Kill it at every so-manieth step, each time on a storage of its own, and give it again.

        Returns:
            About how many steps it has.
        """
        undisturbed = self.make(f"{root}-undisturbed")
        self.work(undisturbed)
        every = 1 if every_case() else every
        expected, step = self.final(undisturbed), 1 + random.Random(seed()).randrange(every)
        while killed_at(step, partial(self.work, where := self.make(f"{root}-{step}"))):
            self.check(where)
            self.work(where)
            assert self.final(where) == expected, f"killed at step {step}"
            step += every
        assert self.final(where) == expected
        return step


def kind(root: str) -> str:
    return "s3" if "://" in root else "disk"


def prepared(root: str) -> str:
    """Version 1 is the champion; a run has just finished another SAE."""
    registry = Registry.at(root, "toy")
    make_champion(registry, add(registry, store_sae(root, "a")))
    store_scores(root, store_sae(root, "b"))
    return root


def end_of_run(root: str) -> None:
    """What a run does at its end, and the promotion of what it left."""
    config = parse_config({"storage": root, "registry": {"name": "toy"}, "activations": {"source": "rows.npy"}})
    sae = address(root, "saes", "b")
    (scores,) = {key.rpartition("/")[0] for key in keys(root, "scores/") if key.endswith(MANIFEST)}
    registered(config, Addresses({"sae": sae, "scores": f"{root}/{scores}"}))
    promoted(root, "toy@challenger", "better", force=False, dry_run=False)


def history(root: str) -> list[tuple[Any, ...]]:
    registry = Registry.at(root, "toy")
    told = [version.model_dump(exclude={"when"}) for _, version in registry.versions.all()]
    moves = sorted(
        (move.alias, move.version, move.previous or 0, move.below or 0, move.rollback_to or 0) for move in moves_of(registry)
    )
    return [*told, *moves]


def champion_is_valid(root: str) -> None:
    uri = resolve("toy@champion", root)
    assert uri in (address(root, "saes", "a"), address(root, "saes", "b"))
    assert open_store(uri).head("sae.safetensors") is not None
    registry = Registry.at(root, "toy")
    assert [number for number, _ in registry.versions.all()] in ([1], [1, 2])


def test_a_kill_between_version_and_alias_loses_nothing(root: str) -> None:
    assert Trial(prepared, end_of_run, champion_is_valid, history).survive(root, EVERY[kind(root)]) >= 40


def two_champions(root: str) -> str:
    registry = Registry.at(root, "toy")
    for name in ("a", "b"):
        make_champion(registry, add(registry, store_sae(root, name)))
    return root


def test_a_kill_in_a_rollback_to_a_version_loses_nothing(folder: str) -> None:
    def back(root: str) -> None:
        rolled_back(root, "toy", "worse", 1)

    assert Trial(two_champions, back, champion_is_valid, history).survive(folder, EVERY["disk"]) >= 20


# Removal.

SHARDS = {"a": ["1", "2"], "b": ["2", "3"], "c": ["3", "4"]}


def full(root: str) -> str:
    """Three versions, of which only the last stays."""
    registry = Registry.at(root, "toy")
    for name, shards in SHARDS.items():
        store_activations(root, f"rows-{name}", shards)
        sae = store_sae(root, name, f"rows-{name}")
        store_report(root, sae, f"rows-{name}")
        store_scores(root, sae, activations=f"rows-{name}")
        add(registry, sae)
    make_champion(registry, 3)
    return root


def sweep(root: str) -> None:
    swept(root, RegistryConfig(name="toy", keep_versions=1, keep_champion_days=0), NOW, dry_run=False)


def whole_or_unfinished(root: str) -> None:
    """What has a manifest has all that it had, and activations all their shards."""
    there = set(keys(root))
    store = open_store(root)
    for stage, needed in {"saes": "sae.safetensors", "scores": "summary.json", "reports": "index.html"}.items():
        for key in there:
            if key.startswith(stage) and key.endswith(MANIFEST):
                assert f"{key.rpartition('/')[0]}/{needed}" in there
    for name, shards in SHARDS.items():
        if store.head(f"{address(root, 'activations', f'rows-{name}').removeprefix(f'{root}/')}/{MANIFEST}") is not None:
            assert set(shards) <= {store.get(key).decode() for key in there if "/layer/" in key}
    assert resolve("toy@champion", root) == address(root, "saes", "c")
    assert position(Registry.at(root, "toy"), "champion") is not None


def test_a_kill_in_a_removal_leaves_what_is_whole_or_is_removed_by_the_next(folder: str) -> None:
    assert Trial(full, sweep, whole_or_unfinished, keys).survive(folder, EVERY["removal"]) >= 100


@pytest.mark.s3
def test_on_s3_a_removal_leaves_the_same(s3: str, tmp_path: Path) -> None:
    root = full(f"{s3}/{tmp_path.name}-removal")
    there = full(f"{tmp_path}/runs")
    sweep(root)
    sweep(there)
    assert keys(root) == keys(there)


# Two at once.


@contextlib.contextmanager
def meeting(folder: Path, of: int) -> Iterator[None]:
    """Whoever is about to append a record waits until so many are."""
    real = NumberedLog.append

    def append(log: Any, number: int, record: Any) -> bool:
        (folder / f"{os.getpid()}.there").touch()
        until(lambda: len(list(folder.glob("*.there"))) >= of, "the other promotion")
        return real(log, number, record)

    NumberedLog.append = append  # type: ignore[method-assign]
    try:
        yield
    finally:
        NumberedLog.append = real  # type: ignore[method-assign]


def test_of_two_promotions_at_once_one_wins_and_the_other_is_refused_in_a_sentence(
    three_anywhere: Registry, tmp_path: Path
) -> None:
    make_champion(three_anywhere, 1)

    def attempt(version: int) -> None:
        with meeting(tmp_path, 2), open(tmp_path / f"{version}.said", "w") as said, contextlib.redirect_stderr(said):
            main(["promote", f"toy@{version}", "--storage", three_anywhere.root])

    pids = {version: forked(partial(attempt, version)) for version in (2, 3)}
    codes = {version: ended(pid) for version, pid in pids.items()}
    assert sorted(codes.values()) == [0, 2]
    (won,) = (version for version, code in codes.items() if code == 0)
    (lost,) = codes.keys() - {won}
    assert resolve("toy@champion", three_anywhere.root) == three_anywhere.uri_of(three_anywhere.version(won))
    said = (tmp_path / f"{lost}.said").read_text()
    assert said.count("\n") == 1
    assert f"toy@champion was not moved to version {lost}: at the same time" in said
    assert three_anywhere.moves("champion").numbers() == [1, 2]
