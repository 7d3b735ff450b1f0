"""The settings of ``harvest`` and ``activations`` as version 3 of the stage fixed them; see ``tasks/recipe.py``.

And what seeds the order of rows within shards.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tasks.harvest.config import ActivationsConfig, HarvestConfig
from tasks.lm.config import ModelConfig
from tasks.storage.artifacts import identity, recipe_hash

FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "hooks": ["model.layers.8"],
        "dtype": "bfloat16",
        "drop_first_position": True,
        "drop_special_tokens": True,
        "max_norm_multiple": 10.0,
        "shard_tokens": 32_768,
        "row_group_rows": 4_096,
    }
)
FIXED_OF_MODEL: Mapping[str, Any] = MappingProxyType({"dtype": "auto"})
"""A run settles what ``auto`` comes to before it asks for addresses, so that a dtype always counts."""
FIXED_OF_OWN: Mapping[str, Any] = MappingProxyType(
    {"tensor": None, "column": "activation", "label_column": None, "eval_fraction": 0.1, "dtype": "float32"}
)


def row_order(settings: HarvestConfig, model: ModelConfig, held: str) -> str:
    """Hex digits that seed the order of rows within the shards of a harvest.

    They are the hash that named the pool of shards in the stage's first version. So rows lie as they did then, and an SAE
    that is trained again, at its new address, comes to the same weights. What is settled here must never change.

    Args:
        settings: of the harvest.
        model: whose activations.
        held: the model's identity.
    """
    values = settings.model_dump(mode="json", include=set(FIXED))
    first: dict[str, Any] = {"version": 1, "harvest": values, "model": {"dtype": model.dtype}}
    if len(settings.hooks) > 1:
        first["tokens"] = "the same at all hooks"
    return recipe_hash(first, [identity(held)])


def own_row_order(settings: ActivationsConfig, shard_rows: int, row_group_rows: int, held: str) -> str:
    """The same for activations of the user's own, whose content is ``held``: as their address was in version 2."""
    values = settings.model_dump(mode="json", include=set(FIXED_OF_OWN))
    cut = {"shard_tokens": shard_rows, "row_group_rows": row_group_rows}
    return recipe_hash({"version": 2, "activations": values, **cut}, [identity(held)])
