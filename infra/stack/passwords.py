"""The passwords for which the compose file asks: drawn once, each in a file that its owner alone can read."""

import secrets
from pathlib import Path

from flows.password import keep, kept_or_new

RAY_TOKEN = "RAY_TOKEN"
_BEFORE = {"PREFECT_PASSWORD": "saemill:", RAY_TOKEN: "", "S3_SECRET": "", "POSTGRES_PASSWORD": ""}
"""What each begins with."""


def file(root: Path, name: str) -> Path:
    """Where the password of this name lies."""
    return root / "secrets" / name


def chosen(root: Path) -> dict[str, str]:
    """The stack's passwords by the variable of the compose file that asks for them."""
    (root / "secrets").mkdir(mode=0o700, exist_ok=True)
    found = {}
    for name, before in _BEFORE.items():
        found[name] = before + kept_or_new(file(root, name), _new).removeprefix(before)
        keep(found[name], file(root, name))
    return found


def _new() -> str:
    """One long word of hexadecimal digits: nothing in it is taken for an address, a port or the end of a part of a URL."""
    return secrets.token_hex(32)
