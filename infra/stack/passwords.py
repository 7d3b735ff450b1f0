"""The passwords for which the compose file asks: drawn once, each in a file that its owner alone can read."""

import secrets
from pathlib import Path

from flows.password import keep, kept_or_new

RAY_TOKEN = "RAY_TOKEN"
_NEW = {
    "PREFECT_PASSWORD": lambda: f"saemill:{secrets.token_urlsafe(32)}",
    RAY_TOKEN: lambda: secrets.token_hex(32),
    "S3_SECRET": lambda: secrets.token_urlsafe(32),
    "POSTGRES_PASSWORD": lambda: secrets.token_urlsafe(32),
}


def file(root: Path, name: str) -> Path:
    """Where the password of this name lies."""
    return root / "secrets" / name


def chosen(root: Path) -> dict[str, str]:
    """The stack's passwords by the variable of the compose file that asks for them."""
    (root / "secrets").mkdir(mode=0o700, exist_ok=True)
    found = {}
    for name, new in _NEW.items():
        found[name] = kept_or_new(file(root, name), new)
        keep(found[name], file(root, name))
    return found
