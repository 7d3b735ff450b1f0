"""The settings of ``text`` as version 3 of the stage fixed them; see ``tasks/recipe.py``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "column": "text",
        "chat_column": None,
        "title_columns": [],
        "hub_split": "train",
        "max_tokens": None,
        "window_days": None,
        "date_column": None,
        "deduplicate": False,
        "context_length": 256,
        "eval_fraction": 0.1,
        "segment_tokens": 262_144,
        "shuffle_documents": True,
        "seed": 0,
    }
)
