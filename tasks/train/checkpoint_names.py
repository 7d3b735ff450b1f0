"""Where checkpoints are, what they are called, and which of them stay; without torch, for processes that only watch."""

import re
from collections.abc import Container

from tasks.storage.base import ObjectStore

CHECKPOINTS = "checkpoints"
"""Their folder below a run's own."""
PART = re.compile(r"state(?:\.(\d+)-of-(\d+))?\.json")


def checkpoint_name(step: int) -> str:
    """Folder of a step's checkpoint; names sort by step."""
    return f"step-{step:012d}"


def part_name(part: int, n_parts: int) -> str:
    """Of a part's two files, without suffix."""
    return "state" if n_parts == 1 else f"state.{part}-of-{n_parts}"


def prune(store: ObjectStore, prefix: str, keep: int, spare: Container[str] = ()) -> None:
    """Remove all checkpoints below ``prefix`` but the newest ``keep`` and those whose names are in ``spare``."""
    for folder in kept(store, prefix)[:-keep]:
        if folder.rpartition("/")[2] in spare:
            continue
        # In the order of names the json file goes first: what is left of a removal that was cut short is no checkpoint.
        store.delete_folder(folder)


def furthest_whole(store: ObjectStore, prefix: str) -> int:
    """The step of the furthest checkpoint below ``prefix`` of which all parts are stored; 0 where there is none.

    A part's json file is written after its tensors, so that it stands for both.
    """
    parts: dict[str, set[tuple[int, int]]] = {}
    for info in store.list(prefix):
        folder, _, name = info.key.rpartition("/")
        if (part := PART.fullmatch(name)) is not None:
            parts.setdefault(folder, set()).add((int(part[1] or 0), int(part[2] or 1)))
    whole = [folder for folder, there in parts.items() if _all_parts(there)]
    return max((int(folder.rpartition("-")[2]) for folder in whole), default=0)


def _all_parts(there: set[tuple[int, int]]) -> bool:
    counts = {n_parts for _, n_parts in there}
    return len(counts) == 1 and {part for part, _ in there} == set(range(*counts))


def kept(store: ObjectStore, prefix: str) -> list[str]:
    """Folders of checkpoints below ``prefix``, whole or not, in the order of steps."""
    found = (info.key.rpartition("/") for info in store.list(prefix))
    return sorted({folder for folder, _, name in found if PART.fullmatch(name)})
