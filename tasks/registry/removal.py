"""Removing a result's directory, so that a kill leaves it whole or leaves something that the next removal finishes.

First comes a mark, which says who removes it and why; then the manifest goes, without which nobody reads the directory; then
everything else, and the mark last. A directory with a mark and no manifest is what a stopped removal left.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tasks.registry.inventory import StoredResult
from tasks.registry.names import REMOVED
from tasks.registry.records import Signed
from tasks.storage.artifacts import MANIFEST, read_json, to_json
from tasks.storage.base import ObjectInfo, ObjectStore
from tasks.storage.objects import open_store


def manifest_of(result: StoredResult) -> Mapping[str, Any]:
    """The manifest of a result, which its mark keeps once it is gone.

    Raises:
        ArtifactError: the mark is damaged.
    """
    if result.manifest is not None:
        return result.manifest
    kept = (read_json(result.uri, REMOVED) or {}).get("manifest")
    return kept if isinstance(kept, dict) else {}


def remove(
    result: StoredResult,
    reason: str,
    signed: Signed,
    *,
    may_go: Callable[[], bool] = lambda: True,
    between: Callable[[], object] = lambda: None,
) -> bool:
    """Remove a directory, or what a stopped removal left of one; whether it is gone.

    Args:
        result: the directory.
        reason: in words, for the mark.
        signed: who removes it.
        may_go: asked once more when the mark is there, after which nobody promotes an SAE: it may have been promoted since.
        between: removes what lies elsewhere and belongs to this result alone; called when the manifest is gone.
    """
    store = open_store(result.uri)
    if result.manifest is not None:
        mark = {"reason": reason, "manifest": dict(result.manifest), **signed.model_dump(mode="json")}
        store.put(REMOVED, to_json(mark))
        if not may_go():
            store.delete(REMOVED)
            return False
        store.delete(MANIFEST)
    between()
    _finish(store)
    return True


def spare(result: StoredResult) -> None:
    """Take back the mark of a result that is to stay after all; a removal was stopped before it removed anything."""
    if result.removal and result.manifest is not None:
        open_store(result.uri).delete(REMOVED)


def _finish(store: ObjectStore) -> None:
    """Delete all that was there when the removal began, and the mark last."""
    marked = store.head(REMOVED)
    if marked is None:
        return
    for info in list(store.list()):
        if info.key != REMOVED and _is_older(store.head(info.key), marked):
            store.delete(info.key)
    store.delete(REMOVED)
    if next(store.list(), None) is None:
        folder, _, name = store.uri.rpartition("/")
        open_store(folder).delete_folder(name)  # an empty one, and half-written files in it


def _is_older(info: ObjectInfo | None, mark: ObjectInfo) -> bool:
    """Whether an object was there when the removal began: a run may have begun to make the same result anew since."""
    return info is not None and info.modified <= mark.modified
