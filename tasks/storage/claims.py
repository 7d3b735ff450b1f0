"""A folder that one piece of work claims for itself: a small file, created once, says what is made there."""

import time
from collections.abc import Collection, Mapping
from typing import Any

from tasks.errors import InputError
from tasks.storage.artifacts import read_json, to_json
from tasks.storage.base import ObjectStore

# No file of this size takes that long; what is younger may be another process's.
_LEFTOVER_AGE_S = 600.0


def claim(
    store: ObjectStore, key: str, request: Mapping[str, Any], expected: Collection[str], noun: str, option: str = "--out"
) -> dict[str, int]:
    """Claim a folder, or find it claimed for the same; the sizes of what is there of it.

    Args:
        store: rooted at the folder.
        key: the file that holds ``request``.
        request: what is to be made there; JSON.
        expected: keys of all files that may come to be there beside ``key``.
        noun: what the work makes, such as "export".
        option: by which the folder was given.

    Raises:
        InputError: something else is there.
    """
    folder = store.path()
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"{option} is {store.uri}, which is a file; name a folder that is empty or not there yet.")
    there = {info.key: info.size for info in store.list()}
    if not there:
        store.put_if_absent(key, to_json(request))
    found = read_json(store.uri, key)
    surplus = sorted(there.keys() - {*expected, key})
    if found is None or surplus:
        what = next(iter(surplus), None) or min(there)
        raise InputError(
            f"{option} is {store.uri}, which holds other things ({what}); name a folder that is empty or not there yet."
        )
    if found != request:
        differing = next(name for name in [*request, *found] if request.get(name) != found.get(name))
        raise InputError(
            f"{option} is {store.uri}, which holds another {noun} ({differing} {found.get(differing)}, now "
            f"{request.get(differing)}); name another folder, or delete that one."
        )
    return there


def sweep(store: ObjectStore) -> None:
    """Remove what a killed process had begun to write."""
    for info in store.leftovers():
        if info.modified < time.time() - _LEFTOVER_AGE_S:
            store.delete(info.key)
