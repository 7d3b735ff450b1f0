"""A built folder, looked through before anything of it is sent: every file is whole, and breaks no rule of its reader."""

import gzip
import hashlib
import zlib
from typing import Any

from tasks.errors import ArtifactError
from tasks.publish.neuronpedia import rules
from tasks.storage.artifacts import MANIFEST, require_manifest
from tasks.storage.objects import open_store, require

_REMEDY = "Delete the folder and build it again."
_UNREADABLE = (ValueError, KeyError, TypeError, EOFError, OSError, zlib.error)

Json = dict[str, Any]


def require_whole(uri: str) -> Json:
    """The manifest of a built folder whose files are all there as they were built, and keep the rules.

    Raises:
        ArtifactError: it is unfinished, or one is not; the sentence says which.
    """
    manifest, store = require_manifest(uri), open_store(uri)
    if manifest.get("stage") != "publish":
        raise ArtifactError(f"{uri}/{MANIFEST} is not of a folder that saemill publish built.")
    sent: dict[str, list[int]] = {place: [] for place in manifest["latents"]}
    exported: dict[str, list[int]] = {place: [] for place in manifest["latents"]}
    for key, stated in manifest["objects"].items():
        data = require(store, key)
        if len(data) != stated["size"] or hashlib.sha256(data).hexdigest() != stated["sha256"]:
            raise ArtifactError(f"{uri}/{key} is not what {MANIFEST} says: it is damaged or was changed. {_REMEDY}")
        try:
            broken = _broken(key, data, sent, exported)
        except _UNREADABLE as error:
            broken = f"cannot be read ({error})"
        if broken is not None:
            raise ArtifactError(f"{uri}/{key} {broken}. {_REMEDY}")
    for place, n in manifest["latents"].items():
        if not len(sent[place]) == len(set(sent[place])) == n or sorted(sent[place]) != sorted(exported[place]):
            raise ArtifactError(
                f"{uri} holds {len(sent[place])} latents of {place} in calls and {len(exported[place])} in the export; "
                f"expected were {n} in each, all different. {_REMEDY}"
            )
    return manifest


def _broken(key: str, data: bytes, sent: dict[str, list[int]], exported: dict[str, list[int]]) -> str | None:
    """The rule that a file breaks; indices of latents are noted under their SAE's place."""
    if key.startswith("neuronpedia/calls/"):
        body = gzip.decompress(data)
        found = rules.read_json(body)
        sent[f"{found['modelId']}/{found['source']}"] += [each["index"] for each in found["features"]]
        return rules.broken_in_call(found["features"], len(body))
    if key.startswith("neuronpedia/export/") and key.endswith(".gz"):
        rows = rules.read_lines(data)
        if "/features/" in key:
            for row in rows:
                exported[f"{row['modelId']}/{row['layer']}"].append(int(row["index"]))
        return rules.broken_in_lines(rows)
    return None
