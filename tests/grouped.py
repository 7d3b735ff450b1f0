"""Which tests run, and which of them one of pytest's processes takes together, so that what is slow is started once."""

import json
import os
from collections import defaultdict
from collections.abc import Collection
from functools import cache
from pathlib import Path, PurePath

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.sampled import sampled

GROUPS = "SAEMILL_TEST_GROUPS"
"""Environment variable with the file through which a run's processes know the groups."""
STARTED = {"served": "prefect", "ray_cluster": "ray"}
"""Fixtures of the whole session, and what is started for whoever has them; the first that is met counts."""
LONG = {"ray", "prefect"}
"""Markers of tests that take long."""
LONGEST = ("ray-train", "prefect-flows", "ray-harvest", "tests-end_to_end")
"""The groups that take longest, first: whichever comes last would leave the other processes with nothing to do."""


def group(nodeid: str, has: Collection[str]) -> tuple[str, bool]:
    """The tests that share this name are of one process; and whether they take long.

    Those with the session's Ray cluster go by package, as what they harvest or train once is their package's; each process
    then has a cluster, which takes seconds, and none is idle meanwhile. Those with the session's Prefect server go together
    for the same reason, and all others by file: also those that start clusters and servers of their own.
    """
    path = PurePath(nodeid.partition("::")[0])
    for fixture, what in STARTED.items():
        if fixture in has:
            return f"{what}-{path.parent.name}", True
    return f"{path.parent.name}-{path.stem.removeprefix('test_')}", not LONG.isdisjoint(has)


def not_their_turn(items: list[pytest.Item]) -> set[pytest.Item]:
    """Of the tests that take turns with each other, those that are not in this commit's share.

    They are of one file, or are marked with the same ``among``.
    """
    circles: dict[tuple[str, float], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("takes_turns"):
            circles[mark.kwargs.get("among") or item.nodeid.partition("::")[0], mark.args[0]].append(item)
    return {item for (_, share), of in circles.items() for item in set(of) - set(sampled(of, share))}


def in_groups(items: list[pytest.Item]) -> None:
    """Put the groups that take long first, and tell the process that deals them out which test is of which group."""
    found = {item: group(item.nodeid, _has(item)) for item in items}
    items.sort(key=lambda item: _place(*found[item]))
    file = Path(os.environ[GROUPS])
    aside = file.with_suffix(f".{os.getpid()}")  # each process writes the same, and none reads half of it
    aside.write_text(json.dumps({item.nodeid: name for item, (name, _) in found.items()}))
    aside.replace(file)


def _place(name: str, is_long: bool) -> int:
    return LONGEST.index(name) if name in LONGEST else len(LONGEST) + (not is_long)


def _has(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()} | set(item.fixturenames)  # type: ignore[attr-defined]


class GroupScheduling(LoadScopeScheduling):
    """Gives a process whole groups. xdist 3.8's own writes them into tests' names, where pytest 9.2 loses them."""

    def _split_scope(self, nodeid: str) -> str:
        return _groups(os.environ[GROUPS])[nodeid]


@cache
def _groups(file: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(Path(file).read_text())
    return found
