"""Data as JavaScript files: a page opened from disk may load scripts, but may not fetch JSON."""

import json
from typing import Any

# With these gone, no text of a corpus can end a <script>, open a comment or an entity, or break a line of script.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def data_file(name: str, value: Any) -> bytes:
    """A script that hands ``value`` to the page under ``name``.

    Pure ASCII (so U+2028, bidirectional controls and the server's charset do not matter) and free of '<', '>', '&'.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)
    return f"saemill.receive({json.dumps(name)},{text});\n".encode("ascii")


class Strings:
    """A table of distinct strings: text that occurs often is written once and referred to by number."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}

    def add(self, text: str) -> int:
        """The string's number, which is new where the string is."""
        return self._number.setdefault(text, len(self._number))

    def add_all(self, texts: list[str]) -> list[int]:
        """The numbers of several strings."""
        return [self.add(text) for text in texts]

    def table(self) -> list[str]:
        """All strings, by number."""
        return list(self._number)
