"""Which tests run, and which of them one of pytest's processes takes together, so that what is slow is started once."""

from collections import defaultdict
from collections.abc import Collection
from pathlib import PurePath

import pytest

from tests.sampled import sampled

STARTED = {"served": "prefect", "ray_cluster": "ray"}
"""Fixtures of the whole session, and what is started for whoever has them; the first that is met counts."""
LONG = {"ray", "prefect"}
"""Markers of tests that take long."""


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
    """Of the tests of a file that are marked ``takes_turns(share)``, those that are not in this commit's share."""
    by_file: dict[tuple[str, float], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("takes_turns"):
            by_file[item.nodeid.partition("::")[0], mark.args[0]].append(item)
    return {item for (_, share), found in by_file.items() for item in set(found) - set(sampled(found, share))}


def in_groups(items: list[pytest.Item]) -> None:
    """Mark each test with its group, unless it names one; the groups that take long come first."""
    long: dict[pytest.Item, bool] = {}
    for item in items:
        name, long[item] = group(item.nodeid, {mark.name for mark in item.iter_markers()} | set(item.fixturenames))  # type: ignore[attr-defined]
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: not long[item])
