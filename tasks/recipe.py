"""What of a stage's settings goes into its recipe, so that addresses outlive releases.

Each stage's package has a ``recipe.py`` with the values that its version has fixed, written out. Only what differs from
them counts. So a setting that comes later moves no address while it has its default, and a default that changes moves none
silently: the value that was the default then stands in the table.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import BaseModel


def differing(settings: Any, fixed: Mapping[str, Any], unread: Collection[str] = ()) -> dict[str, Any]:
    """The settings that are read and are not as they were fixed, as plain JSON values.

    Args:
        settings: a group of settings, pydantic's or a dataclass, all of which have defaults.
        fixed: values by name. A setting that is not there came later, and is held against its own default: whoever adds
            one writes its default into the table.
        unread: names of settings that change nothing of the result.
    """
    defaults = _plain(type(settings)()) | dict(fixed)
    values = _plain(settings)
    return {name: value for name, value in values.items() if name not in unread and value != defaults[name]}


def _plain(settings: Any) -> dict[str, Any]:
    if isinstance(settings, BaseModel):
        return settings.model_dump(mode="json")
    assert is_dataclass(settings) and not isinstance(settings, type)
    found: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return found
