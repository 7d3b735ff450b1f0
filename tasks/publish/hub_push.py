"""The hub folder to a Hugging Face repository: one commit, and a tag that names the very content."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is imported there
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
)

from tasks.errors import InputError, SaemillError
from tasks.publish.hub import FOLDER

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SERVER_FAILED = 500


@dataclass(frozen=True, slots=True)
class PushedRepo:
    """What the hub has now."""

    url: str
    tag: str
    earlier: bool
    """Whether that tag was there before, and nothing was sent now."""


def push(folder: Path, keys: Sequence[str], build: str, repo: str) -> PushedRepo:
    """Send what is new in one commit, and tag it; the token is huggingface_hub's own (HF_TOKEN, or ``hf auth login``).

    A kill before the commit leaves the repository as it was. After it, the same command finds nothing to commit and tags.

    Args:
        folder: built and found whole.
        keys: its files; what a killed build left beside them is not sent.
        build: hash of its content, which the tag is made of.
        repo: ORG/NAME.

    Raises:
        InputError: there is no such folder or repository, or the token may not write there.
        SaemillError: the hub does not answer.
    """
    if not _REPO.fullmatch(repo):
        raise InputError(f"--push hf:{repo} names no repository; hf:ORG/NAME would.")
    paths = {key.removeprefix(f"{FOLDER}/"): folder / key for key in keys if key.startswith(f"{FOLDER}/")}
    if not paths:
        raise InputError(f"{folder} has no folder for the hub; build it with --to hf.")
    api, tag = huggingface_hub.HfApi(), f"saemill-{build[:12]}"
    try:
        api.create_repo(repo, exist_ok=True)
        earlier = any(each.name == tag for each in api.list_repo_refs(repo).tags)
        if not earlier:
            commit = _commit(api, paths, repo, f"saemill publish {build[:12]}")
            api.create_tag(repo, tag=tag, revision=commit, exist_ok=True)  # not what somebody has committed since
    except (HFValidationError, LocalTokenNotFoundError, ValueError) as error:
        raise InputError(f"The hub cannot take {repo}: {_said(error)}") from None
    except HfHubHTTPError as error:
        if error.response.status_code < _SERVER_FAILED:
            raise InputError(f"The hub refuses to take {repo}: {_said(error)}") from None
        raise _away(error) from None
    except (OSError, HTTPError) as error:
        raise _away(error) from None
    return PushedRepo(f"{api.endpoint}/{repo}", tag, earlier)


def _commit(api: huggingface_hub.HfApi, paths: Mapping[str, Path], repo: str, message: str) -> str:
    """All files in one commit; its id. ``upload_folder`` would make several, the card ahead of the rest."""
    added = [huggingface_hub.CommitOperationAdd(name, path) for name, path in paths.items()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # the curve of the training
        return api.create_commit(repo, added, commit_message=message).oid


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _away(error: Exception) -> SaemillError:
    return SaemillError(f"The hub does not answer ({_said(error)}). The same command goes on from here.")
