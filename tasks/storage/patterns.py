"""Which names a pattern stands for, and which are hidden, wherever the files lie."""

import fnmatch
import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Found:
    """The files that a source stands for, and what was passed over."""

    files: list[str] = field(default_factory=list)
    """Absolute paths or URIs, by name."""
    hidden: list[str] = field(default_factory=list)
    """Folders and files of the right kind."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over: ``tasks.storage.listing`` says why."""
    return name.startswith((".", "_"))


def split_pattern(source: str) -> tuple[str, str]:
    """The part of a pattern that is the same for all that it stands for, and the rest."""
    parts = source.split("/")
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:fixed]), "/".join(parts[fixed:])


def fits(key: str, pattern: str) -> bool:
    """Whether a key matches a pattern, part by part; '**' is any number of folders, and as the last part any file below."""
    return _fit(key.split("/"), pattern.split("/"))


def _fit(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**":
        return len(parts) == 1 or any(_fit(names[start:], parts[1:]) for start in range(len(names)))
    return fnmatch.fnmatchcase(names[0], parts[0]) and _fit(names[1:], parts[1:])


def sifted(root: str, keys: Iterable[str], source: str) -> Found:
    """The keys below ``root`` as URIs, apart from those that are hidden where the source does not spell them."""
    spelt = [part for part in source.split("/") if is_hidden(part)]
    found = Found()
    for key in sorted(keys):
        unspelt = (name for name in key.split("/") if not any(fnmatch.fnmatchcase(name, part) for part in spelt))
        (found.hidden if any(map(is_hidden, unspelt)) else found.files).append(f"{root}/{key}")
    return found
