"""What a registry, an alias and a tag may be called."""

import re

from tasks.errors import InputError
from tasks.storage.paths import shown

NAME = r"^[a-z0-9][a-z0-9_.-]*$"
CHAMPION, CHALLENGER, KEEP = "champion", "challenger", "keep"
"""The alias of the version in use, that of the newest one, and the tag of versions that retention never removes."""
REMOVED = "removed.json"
"""Written into a directory before anything of it is deleted: what a killed removal leaves is known by it."""
_MOST = 200


def require_name(text: str, what: str) -> str:
    """The name of a registry or a tag, as it is.

    Raises:
        InputError: it could not be part of a key on every storage.
    """
    if not re.fullmatch(NAME, text) or len(text) > _MOST:
        raise InputError(
            f"{what} is {shown(text)}, but must be of lower-case letters, digits, '_', '.' and '-', begin with a letter or "
            f"digit, and have at most {_MOST} characters."
        )
    return text
