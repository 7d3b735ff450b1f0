"""How results are named, found and finished.

A result lives at ``<root>/<stage>/<name>-<hash12>/``: the hash is that of the settings that change the result and of
its inputs' hashes, so the same recipe has the same address on any machine and any storage. ``manifest.json`` comes
last and is created once; a directory without it is unfinished, and readers trust only it.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import ArtifactError
from tasks.storage.objects import open_store

MANIFEST = "manifest.json"
_SHARDS = re.compile(r"\.|\.\./\.\./shards/(?!\.{1,2}$)[^/\0]+")


def recipe_hash(settings: Mapping[str, Any], inputs: Sequence[str] = ()) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON of settings and input identities."""
    text = json.dumps({"settings": settings, "inputs": list(inputs)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def address(root: str, stage: str, name: str, settings: Mapping[str, Any], inputs: Sequence[str] = ()) -> str:
    """URI of a result's directory. ``inputs`` are addresses (only their hashes count) or other identities."""
    return f"{root.rstrip('/')}/{stage}/{name}-{recipe_hash(settings, [identity(i) for i in inputs])}"


def root_of(uri: str) -> str:
    """The root below which a result lies that is named as above."""
    return uri.rstrip("/").rsplit("/", 2)[0]


def identity(uri: str) -> str:
    """The part of an address that does not depend on storage or name: its hash (other strings stay as they are)."""
    head, dash, tail = uri.rpartition("-")
    return tail if dash and "/" in head and len(tail) == 12 else uri


def relative(uri: str, base: str) -> str:
    """``uri`` as seen from ``base``, such as '../../shards/x', so that a root can be moved or copied as a whole."""
    (scheme, path), (base_scheme, base_path) = _parts(uri), _parts(base)
    return posixpath.relpath(path, base_path) if scheme == base_scheme else uri


def resolve(uri: str, base: str) -> str:
    """The inverse of ``relative``."""
    if "://" in uri or posixpath.isabs(uri):
        return uri
    scheme, path = _parts(base)
    return scheme + posixpath.normpath(posixpath.join(path, uri))


def shards_uri(uri: str, manifest: Mapping[str, Any]) -> str:
    """Where the shards lie that an activations manifest names: in a pool shared by many, or beside the manifest.

    Raises:
        ArtifactError: the manifest names another place.
    """
    found = manifest.get("shards", ".")
    if not isinstance(found, str) or not _SHARDS.fullmatch(found):
        raise ArtifactError(
            f"{uri}/{MANIFEST} says that its shards lie in {found!r}, where no harvest puts them; expected was '.' or "
            "'../../shards/<name>'. Delete the file and harvest again."
        )
    return resolve(found, uri)


def _parts(uri: str) -> tuple[str, str]:
    scheme, mark, path = uri.rpartition("://")
    return scheme + mark, path


def read_manifest(uri: str) -> dict[str, Any] | None:
    """The manifest of a finished directory, or None where it is unfinished or absent.

    Raises:
        ArtifactError: there is a manifest but it is no JSON object.
    """
    return read_json(uri, MANIFEST)


def require_manifest(uri: str) -> dict[str, Any]:
    """The manifest of a finished directory.

    Raises:
        ArtifactError: the directory is unfinished or absent, or its manifest is damaged.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise ArtifactError(f"{uri} has no {MANIFEST}: it is unfinished or absent. Run the stage that writes it.")
    return manifest


def write_manifest(uri: str, manifest: Mapping[str, Any]) -> None:
    """Finish a directory; must come after everything that the manifest names.

    Raises:
        ArtifactError: the directory was finished already, with another content.
    """
    if not open_store(uri).put_if_absent(MANIFEST, to_json(manifest)):
        raise ArtifactError(f"{uri}/{MANIFEST} exists with another content. Delete {uri} and run again.")


def read_json(uri: str, key: str) -> dict[str, Any] | None:
    """A JSON object from a directory, or None where there is none.

    Raises:
        ArtifactError: what is there is no JSON object.
    """
    try:
        data = open_store(uri).get(key)
    except FileNotFoundError:
        return None
    try:
        value = parse_json(data)
    except ValueError as error:
        raise ArtifactError(f"{uri}/{key} {error}. Delete the file and give the command again that wrote it.") from None
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{uri}/{key} holds {_KINDS[type(value)]}, not a JSON object. Delete the file and give the command "
            "again that wrote it."
        )
    return value


_KINDS: dict[type, str] = {
    list: "a list",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def parse_json(data: bytes | str) -> Any:
    """Whatever a file holds as JSON, from anywhere.

    Raises:
        ValueError: it is not JSON or is nested too deep to be read; the text goes on after the file's name.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("is JSON that is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({' '.join(str(error).split())})") from None


def to_json(value: Mapping[str, Any]) -> bytes:
    """The one way JSON is written: sorted, indented, without NaN, so that equal content is equal bytes.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
