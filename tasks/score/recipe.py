"""The settings of ``score`` as version 2 of the stage fixed them; see ``tasks/recipe.py``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "max_tokens": 131_072,
        "splice_tokens": 8_192,
        "baseline_tokens": 8_192,
        "top_contexts": 8,
        "quantiles": 3,
        "contexts_per_quantile": 2,
        "context_tokens": 12,
        "top_logits": 10,
        "neighbours": 5,
    }
)
OF_TEXT = frozenset({"splice_tokens", "top_logits"})
"""Read only where there is text, and so a model."""
