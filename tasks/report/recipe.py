"""The settings of ``report`` as version 2 of the stage fixed them; see ``tasks/recipe.py``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FIXED: Mapping[str, Any] = MappingProxyType({"title": None, "max_latents": None})
