"""Paths and URIs as users give them: which cannot be, and how they are shown in a sentence."""

import errno
import os

from tasks.errors import InputError
from tasks.secret import masked

_SHOWN = 200


def shown(text: str) -> str:
    """Text of the user's in quotes, cut where it is too long for a sentence."""
    text = masked(text)  # before it is cut: a secret's end is what tells it
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text):,} characters)"


def require_text(uri: str) -> None:
    """Refuse what no path or URI can hold.

    Raises:
        InputError: there is a NUL character or half of a surrogate pair.
    """
    if "\0" in uri:
        raise InputError(f"{shown(uri)} holds a NUL character, which no path has.")
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise InputError(f"{shown(uri)} holds half of a surrogate pair, which no path has.") from None


def local_path(uri: str) -> str:
    """A local path without its scheme and with the home folder in place of '~'.

    Raises:
        InputError: no file system can have such a path.
    """
    require_text(uri)
    path = os.path.expanduser(uri.removeprefix("file://"))
    if path.startswith("~") and not os.path.lexists(path):
        raise InputError(f"{uri!r} begins with '~', but there is no user {path[1:].partition('/')[0]!r} with a home folder.")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(f"{shown(uri)} cannot be the path of a file: {error.strerror}.") from None
    return path
