"""Walks over the folders of this machine: linked folders are followed, and read once, whichever links lead there."""

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence

from tasks.errors import InputError
from tasks.storage.patterns import Found, is_hidden


def files_on_disk(path: str, suffixes: Sequence[str]) -> Found:
    """The files that a path, a folder or a pattern stands for; of a folder, those with one of the suffixes.

    Raises:
        InputError: a folder may not be listed, or the path stands for all files of the machine.
    """
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
    if is_hidden(entry.name) and not is_hidden(part):
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
