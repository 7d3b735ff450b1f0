"""The password of the Prefect server that ``saemill serve`` starts, and whether a server takes the one that is set.

It never stands in an argument, which every user of the machine can read: it lies in a file for its owner only, and passes
to children through the environment.
"""

import base64
import contextlib
import http.client
import json
import os
import secrets
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from flows import home
from tasks.errors import InputError

CLIENT = "PREFECT_API_AUTH_STRING"
"""Environment variable from which Prefect's clients take the password."""
SERVER = "PREFECT_SERVER_API_AUTH_STRING"
_ADDRESS = "The address of a Prefect server's API ends in /api, such as http://127.0.0.1:4200/api."
_ENOUGH = 1000
"""Bytes of an answer."""


def own() -> str:
    """The password of the server that is to be started: the user's own, or one that is kept in the server's folder.

    Raises:
        InputError: Prefect could not compare it with what a client shows.
    """
    chosen = os.environ.get(SERVER) or kept_or_new(file())
    if not (chosen.isascii() and chosen.isprintable()):
        where = f"The environment variable {SERVER}" if os.environ.get(SERVER) else str(file())
        raise InputError(
            f"{where} holds a password with other letters than ASCII's, which Prefect cannot read. Choose another."
        )
    return chosen


def file() -> Path:
    """Where the server's password is kept."""
    return home.home() / "password"


def _new() -> str:
    return f"saemill:{secrets.token_urlsafe(32)}"


def kept_or_new(file: Path, new: Callable[[], str] = _new) -> str:
    """The password in a file that only its owner can read, else a new one, which is not written yet."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        about = file.lstat()
        mine = about.st_uid == os.geteuid() and not about.st_mode & 0o077
        if mine and (kept := file.read_text().strip()):
            return kept
    return new()


def keep(password: str, file: Path) -> None:
    """Write the password where ``kept_or_new`` finds it, readable by its owner only from the first moment.

    Raises:
        OSError: it cannot be written; nothing of it is left then.
    """
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as aside:  # mode 0600
        try:
            aside.write(password + "\n")
            aside.flush()
            os.replace(aside.name, file)
        except BaseException:
            os.unlink(aside.name)
            raise


def require_welcome(api: str, name: str) -> None:
    """Ask a Prefect server whether it takes what Prefect is set to show it; ``name`` says where its address was given.

    Raises:
        InputError: no Prefect server answers at ``api``, or it wants another password, or refuses otherwise.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{api}/admin/version", headers=_shown()), timeout=10) as answer:
            version = json.loads(answer.read(_ENOUGH))
    except urllib.error.HTTPError as error:
        with error:
            if not (error.code == 404 and api.startswith(_cloud())):  # Prefect Cloud has no version
                raise InputError(_refusal(api, name, error)) from None
    except (OSError, http.client.HTTPException):
        raise InputError(f"{name} is {api} but no Prefect server answers there.") from None
    except ValueError:  # no URL, or what answers speaks no JSON
        raise InputError(f"{name} is {api} but what answers there is no Prefect server's API. {_ADDRESS}") from None
    else:
        if not isinstance(version, str):
            raise InputError(f"{name} is {api} but what answers there is no Prefect server's API. {_ADDRESS}")


def _refusal(api: str, name: str, error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return (
            f"{name} is {api}, and the Prefect server there wants a password. Set {CLIENT}; where saemill serve "
            'started it: export PREFECT_API_AUTH_STRING="$(cat .saemill/prefect/password)".'
        )
    advice = "See that server's log." if error.code >= 500 else _ADDRESS
    return f"{name} is {api}, which answers with HTTP {error.code}{_its_words(error)}. {advice}"


def _its_words(error: urllib.error.HTTPError) -> str:
    """What an answer says, where that is a line of text: ours says at which address it answers."""
    if error.headers.get_content_type() != "text/plain":
        return ""
    with contextlib.suppress(OSError, http.client.HTTPException):
        if words := error.read(_ENOUGH).decode(errors="replace").strip().rstrip("."):
            return f" ({words})"
    return ""


def _cloud() -> str:
    from prefect.settings import PREFECT_CLOUD_API_URL

    return str(PREFECT_CLOUD_API_URL.value())


def _shown() -> dict[str, str]:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY  # they may come from a profile, too

    if password := PREFECT_API_AUTH_STRING.value():
        return {"authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}
    if key := PREFECT_API_KEY.value():
        return {"authorization": f"Bearer {key}"}
    return {}
