"""What an activations manifest must say before anything follows it: whoever can write to storage can write a manifest."""

import math
import re
from collections.abc import Mapping
from typing import Any

from tasks.activations.schema import DTYPES
from tasks.errors import ArtifactError
from tasks.storage.artifacts import MANIFEST

SAMPLED = "sampled"
"""In a manifest: splits of which only some shards were kept, each with how many (``kept``) of how many (``of``)."""

_KEY_PART = re.compile(r"(?!\.{1,2}$)[^/\0]+")


def require_hooks(uri: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's hooks, once each has what readers look for.

    Raises:
        ArtifactError: one lacks it, or names an object outside its directory.
    """
    fault = fault_of_hooks(manifest)
    if fault is not None:
        raise ArtifactError(
            f"{uri}/{MANIFEST} is damaged: {fault}. saemill verify {uri} names all damage; delete the file and give the "
            "command again that wrote it."
        )
    found: dict[str, Any] = manifest["hooks"]
    return found


def fault_of_hooks(manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with the part of a manifest that tells of hooks, in words, or None."""
    hooks = manifest.get("hooks")
    if not isinstance(hooks, dict) or not hooks:
        return "it names no hooks"
    for hook, entry in hooks.items():
        fault = _fault_of_entry(entry)
        if fault is not None:
            return f"hook {hook!r} has {fault}"
    return None


def is_inside(key: object) -> bool:
    """Whether a key stays below the directory that it is relative to."""
    return isinstance(key, str) and all(_KEY_PART.fullmatch(part) for part in key.split("/"))


def _fault_of_entry(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return "no entry"
    d_in, dtype, splits, statistics = (entry.get(name) for name in ("d_in", "dtype", "splits", "statistics"))
    if not isinstance(d_in, int) or isinstance(d_in, bool) or d_in < 1:
        return f"d_in {d_in!r}"
    if dtype not in DTYPES:
        return f"dtype {dtype!r}"
    if not isinstance(statistics, dict) or "train" not in statistics:
        return "no statistics"
    if not isinstance(splits, dict) or not {"train", "eval"} <= splits.keys():
        return "no splits train and eval"
    for name, split in splits.items():
        fault = _fault_of_split(split) or _fault_of_statistics(statistics.get(name), d_in, split["rows"])
        if fault is not None:
            return f"{fault} in {name}"
    return None


def _fault_of_split(split: object) -> str | None:
    if not isinstance(split, dict) or not isinstance(split.get("shards"), list) or not _is_count(split.get("rows")):
        return "no list of shards"
    faults = (_fault_of_shard(shard) for shard in split["shards"])
    fault = next((found for found in faults if found is not None), None)
    if fault is None and sum(shard["rows"] for shard in split["shards"]) != split["rows"]:
        return f"{split['rows']} rows, but shards of other numbers of rows"
    return fault


def _fault_of_shard(shard: object) -> str | None:
    if not isinstance(shard, dict):
        return "a shard that is no object"
    if not is_inside(shard.get("key")):
        return f"a shard with the key {shard.get('key')!r}, which does not lie in the directory"
    groups = shard.get("row_groups")
    if not isinstance(groups, list) or not all(_is_count(rows) for rows in groups):
        return f"a shard without row groups ({shard['key']})"
    counts = [shard.get(name) for name in ("size", "rows", "first_sequence")]
    if not all(_is_count(count) for count in counts) or sum(groups) != shard["rows"]:
        return f"a shard whose size or rows are no numbers that fit ({shard['key']})"
    return None


def _fault_of_statistics(statistics: object, d_in: int, rows: int) -> str | None:
    """A split without rows has none."""
    if statistics is None and rows == 0:
        return None
    if not isinstance(statistics, dict):
        return f"no statistics of its {rows:,} rows"
    mean = statistics.get("mean")
    if not isinstance(mean, list) or len(mean) != d_in or not all(_is_number(x) for x in mean):
        return f"a mean that is not {d_in} numbers"
    for name in ("variance", "median_norm"):
        if not _is_number(statistics.get(name)) or statistics[name] < 0:
            return f"a {name} that is no number from 0 on"
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
