"""The password of the Prefect server that ``saemill serve`` starts, and whether a server takes the one that is set.

It never stands in an argument, which every user of the machine can read: it lies in a file for its owner only, and passes
to children through the environment.
"""

import base64
import contextlib
import http.client
import os
import secrets
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from tasks.errors import InputError

CLIENT = "PREFECT_API_AUTH_STRING"
"""Environment variable from which Prefect's clients take the password."""
SERVER = "PREFECT_SERVER_API_AUTH_STRING"


def kept_or_new(file: Path) -> str:
    """The password in a file that only its owner can read, else a new one, which is not written yet."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        about = file.lstat()
        mine = about.st_uid == os.geteuid() and not about.st_mode & 0o077
        if mine and (kept := file.read_text().strip()):
            return kept
    return f"saemill:{secrets.token_urlsafe(32)}"


def keep(password: str, file: Path) -> None:
    """Write the password where ``kept_or_new`` finds it, readable by its owner only from the first moment."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as aside:  # mode 0600
        aside.write(password + "\n")
    os.replace(aside.name, file)


def require_welcome(api: str, name: str) -> None:
    """Ask a Prefect server whether it takes what Prefect is set to show it; ``name`` says where its address was given.

    Raises:
        InputError: no server answers at ``api``, or it wants another password.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{api}/admin/version", headers=_shown()), timeout=10):
            return
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise InputError(
                f"{name} is {api}, and the Prefect server there wants a password. Set {CLIENT}; where saemill serve "
                'started it: export PREFECT_API_AUTH_STRING="$(cat .saemill/prefect/password)".'
            ) from None
    except (OSError, http.client.HTTPException, ValueError):
        raise InputError(f"{name} is {api} but no Prefect server answers there.") from None


def _shown() -> dict[str, str]:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY  # they may come from a profile, too

    if password := PREFECT_API_AUTH_STRING.value():
        return {"authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}
    if key := PREFECT_API_KEY.value():
        return {"authorization": f"Bearer {key}"}
    return {}
