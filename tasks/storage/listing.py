"""Which files a path, a folder or a glob stands for: one rule for corpora and activations, on local disk and S3.

Names that begin with '.' or '_' are hidden, as they are to Spark, Hive and Arrow: editors' copies (.ipynb_checkpoints),
halves of writes (_temporary), marks (_SUCCESS). They are passed over with all that lies below, and told in the log, unless
the path or the pattern itself spells them. Linked folders are followed; a folder is read once, whichever links lead there.
"""

import fnmatch
import functools
import glob
import logging
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import InputError
from tasks.storage.objects import checked_path, impatient_filesystem, s3_sentences
from tasks.storage.retry import Patience, retried

logger = logging.getLogger(__name__)

# A run that has not begun is better told within seconds that the server is away.
_PATIENCE = Patience(seconds=10.0)


@dataclass(slots=True)
class Found:
    """The files, and what was passed over."""

    files: list[str] = field(default_factory=list)
    """Absolute paths or s3:// URIs, by name."""
    hidden: list[str] = field(default_factory=list)
    """Folders and files of the right kind."""


def find(source: str, suffixes: Sequence[str]) -> list[str]:
    """The files that a path, folder, glob or s3:// URI stands for; of a folder, those with one of the suffixes.

    Raises:
        InputError: the path cannot be one, or the server cannot be reached.
    """
    checked = checked_path(source)
    found = _on_s3(checked, suffixes) if checked.startswith("s3://") else _on_disk(checked, suffixes)
    if found.hidden:
        _say(source, len(found.hidden), found.hidden[0])
    return found.files


def exists(source: str) -> bool:
    """Whether a file or folder is there, or an s3:// object or prefix.

    Raises:
        InputError: the path cannot be one, or the server cannot be reached.
    """
    checked = checked_path(source)
    return bool(_asked(checked, "exists")) if checked.startswith("s3://") else os.path.exists(checked)


@functools.lru_cache(maxsize=256)
def _say(source: str, count: int, first: str) -> None:
    """Once a process: the same files are looked up by several stages."""
    logger.info("%s: passed over %d hidden files or folders (names with '.' or '_' first), such as %s", source, count, first)


def _on_disk(path: str, suffixes: Sequence[str]) -> Found:
    if os.path.isfile(path):
        return Found([os.path.abspath(path)])
    if os.path.isdir(path):
        if os.path.abspath(path) == "/":
            raise InputError("'/' stands for all files of this machine; name a folder.")
        found = _walked(os.path.abspath(path), ["**", "*"], suffixes)
    elif glob.has_magic(path):
        parts = os.path.abspath(path).split("/")
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        found = _walked("/".join(parts[:fixed]) or "/", parts[fixed:], ("",))
    else:
        found = Found()
    return Found(sorted(found.files), sorted(found.hidden))


def _walked(root: str, pattern: list[str], suffixes: Sequence[str]) -> Found:
    """Files below ``root`` whose path matches the pattern, part by part; '**' is any number of folders."""
    found, seen = Found(), set[tuple[int, int, tuple[str, ...]]]()
    ahead: list[tuple[str, tuple[str, ...]]] = [(root, tuple(pattern))]
    while ahead:
        folder, parts = ahead.pop(0)
        key = _identity(folder, parts)
        if key is None or key in seen:
            continue
        seen.add(key)
        if parts[0] == "**" and len(parts) > 1:
            ahead.insert(0, (folder, parts[1:]))
        for entry in _entries(folder):
            _place(entry, parts, suffixes, found, ahead)
    found.files = list(dict.fromkeys(found.files))
    found.hidden = list(dict.fromkeys(found.hidden))
    return found


def _place(
    entry: "os.DirEntry[str]",
    parts: tuple[str, ...],
    suffixes: Sequence[str],
    found: Found,
    ahead: list[tuple[str, tuple[str, ...]]],
) -> None:
    part, last = parts[0], len(parts) == 1
    try:
        folder, file = entry.is_dir(), entry.is_file()
    except OSError:  # a link that leads to itself is no more than one that leads nowhere
        return
    wanted = part == "**" or fnmatch.fnmatchcase(entry.name, part)
    takes = (folder and (part == "**" or not last)) or (not folder and last and entry.name.endswith(tuple(suffixes)))
    if not wanted or not takes or not (folder or file):
        return
    if _hidden(entry.name) and not _hidden(part):
        found.hidden.append(entry.path)
    elif not folder:
        found.files.append(entry.path)
    else:
        # Linked folders last: what lies in a folder itself is named by that folder.
        at = len(ahead) if entry.is_symlink() else 0
        ahead.insert(at, (entry.path, parts if part == "**" else parts[1:]))


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # it went away, or the pattern goes on below a file
        return
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error.strerror}.") from None


def _identity(folder: str, parts: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino, parts


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _on_s3(source: str, suffixes: Sequence[str]) -> Found:
    if glob.has_magic(source):
        keys = _files_among(_asked(source, "glob", detail=True))
        parts = source.removeprefix("s3://").split("/")
        fixed = "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
        spelt = [part for part in parts if _hidden(part)]
    elif _asked(source, "isfile"):
        return Found([source])
    else:
        keys = [key for key in _files_among(_asked(source, "find", detail=True)) if key.endswith(tuple(suffixes))]
        fixed, spelt = source.removeprefix("s3://"), []
    found = Found()
    for key in sorted(keys):
        below = posixpath.relpath(key, fixed).split("/")
        passed = any(_hidden(name) and not any(fnmatch.fnmatchcase(name, part) for part in spelt) for name in below)
        (found.hidden if passed else found.files).append(f"s3://{key}")
    return found


def _files_among(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of files: folders match patterns too, as on disk, where they are no files either."""
    return [name for name, info in found.items() if info["type"] == "file" and not name.endswith("/")]


def _asked(source: str, verb: str, **options: Any) -> Any:
    """What s3fs answers to one of its own verbs."""
    what = f"{verb} of {source}"
    with s3_sentences(what):
        return retried(lambda: getattr(impatient_filesystem(), verb)(source, **options), lambda: what, _PATIENCE)
