"""Which tests one of pytest's processes takes together, so that what is slow to start is started once for them."""

from collections.abc import Collection
from pathlib import PurePath

import pytest

SLOW = {"served": "prefect", "prefect": "prefect", "ray": "ray", "ray_cluster": "ray"}
"""Markers and fixtures, and what starts slowly for whoever has them; the first that is met counts."""


def group(nodeid: str, has: Collection[str]) -> tuple[str, bool]:
    """The tests that share this name are of one process; and whether they take long.

    Those with a Ray cluster go by package, as what they harvest or train once is their package's; each process then has a
    cluster, which takes seconds, and none is idle meanwhile. Those with Prefect's server go together, all others by file.
    """
    path = PurePath(nodeid.partition("::")[0])
    for name, what in SLOW.items():
        if name in has:
            return (what if what == "prefect" else f"{what}-{path.parent.name}"), True
    return f"{path.parent.name}-{path.stem.removeprefix('test_')}", False


def in_groups(items: list[pytest.Item]) -> None:
    """Mark each test with its group, unless it names one; the groups that take long come first."""
    long: dict[pytest.Item, bool] = {}
    for item in items:
        name, long[item] = group(item.nodeid, {mark.name for mark in item.iter_markers()} | set(item.fixturenames))  # type: ignore[attr-defined]
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: not long[item])
