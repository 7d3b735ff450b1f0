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


def kept(store: ObjectStore, prefix: str) -> list[str]:
    """Folders of checkpoints below ``prefix``, whole or not, in the order of steps."""
    found = (info.key.rpartition("/") for info in store.list(prefix))
    return sorted({folder for folder, _, name in found if PART.fullmatch(name)})
