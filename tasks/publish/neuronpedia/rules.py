"""What Neuronpedia's calls and importer refuse or silently lose, looked for in a built folder before anything is sent.

A rule that is broken is told in words that go on after a file's name.
"""

import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

from tasks.publish.dashboards import MOST_TOKENS
from tasks.publish.neuronpedia import calls, export

_MOST_INDEX = 10_000_000

Json = dict[str, Any]


def read_json(data: bytes) -> Any:
    """What a file or a line of it holds.

    Raises:
        ValueError: it is not JSON, or a number of it is not finite; the text goes on after the file's name.
    """
    return json.loads(data, parse_constant=_refuse)


def broken_in_call(features: Sequence[Json], size: int) -> str | None:
    """What a call of ``features``, whose body has ``size`` bytes, breaks, or None."""
    if size > calls.MOST_BYTES:
        return f"is {size:,} bytes long, and a call may have {calls.MOST_BYTES:,}"
    indices = [each["index"] for each in features]
    if not 1 <= len(features) <= calls.MOST_FEATURES:
        return f"holds {len(features)} latents, and a call may have 1 to {calls.MOST_FEATURES}"
    if len(set(indices)) < len(indices):
        return "names a latent twice"
    return next((f"has latent {each['index']} {broken}" for each in features if (broken := _broken_feature(each))), None)


def broken_in_lines(rows: Sequence[Json]) -> str | None:
    """What a file of the export breaks, or None."""
    if not rows:
        return "holds no line"
    keys = list(rows[0])
    if any(list(row) != keys for row in rows):
        return "has lines whose keys are not those of its first line, which the importer takes for all"
    if "tokens" in rows[0]:
        return next((broken for row in rows if (broken := _broken_context(row["tokens"], row["values"]))), None)
    if len(rows) > export.MOST_FEATURES:
        return f"holds {len(rows)} latents, and an insert may have {export.MOST_FEATURES}"
    return None


def read_lines(data: bytes) -> list[Json]:
    """The objects of a gzipped file, one a line."""
    return [read_json(line) for line in gzip.decompress(data).splitlines()]


def _broken_feature(feature: Json) -> str | None:
    if not 0 <= feature["index"] <= _MOST_INDEX:
        return f"beyond {_MOST_INDEX:,}"
    if not 0 <= feature["density"] <= 1:
        return f"with density {feature['density']}, which is no share"
    if not feature["activations"]:
        return "without an activation"
    for name in ("topLogits", "bottomLogits"):
        if len(feature[name]) > calls.MOST_LOGITS or not all(each["token"] for each in feature[name]):
            return f"with {name} that are more than {calls.MOST_LOGITS}, or with an empty token"
    contexts = feature["activations"]
    return next((f"with a context that {broken}" for each in contexts if (broken := _broken(each))), None)


def _broken(context: Json) -> str | None:
    if not context["quantileMin"] <= context["quantileMax"] or not 0 <= context["quantileFraction"] <= 1:
        return "has an interval that is none"
    return _broken_context(context["tokens"], context["values"])


def _broken_context(tokens: list[str], values: list[float]) -> str | None:
    if not 1 <= len(tokens) <= MOST_TOKENS:
        return f"has {len(tokens)} tokens, and 1 to {MOST_TOKENS:,} were expected"
    if len(values) != len(tokens):
        return f"has {len(values)} values for {len(tokens)} tokens"
    if not all(tokens) or any("\0" in text for text in tokens):
        return "has an empty token, or one with NUL"
    return None if all(map(math.isfinite, values)) else "has a value that is not finite"


def _refuse(constant: str) -> float:
    raise ValueError(f"holds {constant}, which is not finite")
