"""Which files a path, a folder or a glob stands for: one rule for corpora and activations, on any storage.

Names that begin with '.' or '_' are hidden, as they are to Spark, Hive and Arrow: editors' copies (.ipynb_checkpoints),
halves of writes (_temporary), marks (_SUCCESS). They are passed over with all that lies below, and told in the log, unless
the path or the pattern itself spells them. Linked folders are followed; a folder is read once, whichever links lead there.
"""

import functools
import logging
from collections.abc import Sequence

from tasks.storage.objects import backend_of, checked_path, object_at

logger = logging.getLogger(__name__)


def find(source: str, suffixes: Sequence[str]) -> list[str]:
    """The files that a path, folder, glob or URI stands for; of a folder, those with one of the suffixes.

    Raises:
        InputError: the path cannot be one, or the server cannot be reached.
    """
    found = backend_of(source).files(checked_path(source), suffixes)
    if found.hidden:
        _say(source, len(found.hidden), found.hidden[0])
    return found.files


def exists(source: str) -> bool:
    """Whether a file or folder is there, or an object, or objects below a prefix.

    Raises:
        InputError: the path cannot be one, or the server cannot be reached.
    """
    return object_at(source).hasty().exists()


@functools.lru_cache(maxsize=256)
def _say(source: str, count: int, first: str) -> None:
    """Once a process: the same files are looked up by several stages."""
    logger.info("%s: passed over %d hidden files or folders (names with '.' or '_' first), such as %s", source, count, first)
