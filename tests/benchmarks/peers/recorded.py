"""What other libraries' training came to, kept in ``recorded.json``: minutes each, and the same whoever asks.

A result stands under everything that it follows from, its library's version too, so changed settings are measured anew and
added. ``--fresh`` measures again what is there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("recorded.json")
Result = dict[str, Any]


def recorded(settings: Mapping[str, Any], measure: Callable[[], Result] | None, fresh: bool = False) -> Result | None:
    """The result of ``settings``, which are plain JSON; measured and written down where it is not known.

    Without ``measure``, None stands for what is not known.
    """
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    known: Result | None = None if fresh else _all().get(key, {}).get("result")
    if known is not None or measure is None:
        return known
    result = measure()
    write = _all() | {key: {"settings": dict(settings), "result": result}}
    unfinished = RECORDED.with_suffix(".part")
    unfinished.write_text(json.dumps(write, indent=1, sort_keys=True) + "\n")
    unfinished.rename(RECORDED)
    return result


def _all() -> dict[str, Any]:
    return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
