"""What one harvest has that another has not: rows, and another mean. Told from manifests alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.activations.manifest import require_hooks
from tasks.storage.artifacts import require_manifest


def rows_of(activations: str, hook: str) -> int:
    """Rows of a hook in both splits.

    Raises:
        ArtifactError: the activations are unfinished or damaged.
    """
    return sum(shard["rows"] for shard in _shards(_hook(activations, hook)))


def new_rows(activations: str, before: str, hook: str) -> int:
    """Rows of shards that another harvest has not, told by their hashes.

    Raises:
        ArtifactError: one of the two is unfinished or damaged.
    """
    known = {shard["sha256"] for shard in _shards(_hook(before, hook))}
    return sum(shard["rows"] for shard in _shards(_hook(activations, hook)) if shard["sha256"] not in known)


def mean_shift(activations: str, before: str, hook: str) -> float:
    """Distance between the means of training rows, over the earlier rows' root mean square distance from theirs.

    Raises:
        ArtifactError: one of the two is unfinished or damaged.
    """
    now, then = (_hook(uri, hook)["statistics"]["train"] for uri in (activations, before))
    distance = float(np.linalg.norm(np.asarray(now["mean"], np.float64) - np.asarray(then["mean"], np.float64)))
    return distance / float(then["variance"]) ** 0.5 if then["variance"] > 0 else 0.0


def _hook(activations: str, hook: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = require_hooks(activations, require_manifest(activations))[hook]
    return found


def _shards(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [shard for split in entry["splits"].values() for shard in split["shards"]]
