"""What one training run is given, whoever starts it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.hook_roles import HookRoles
from tasks.ray_config import RayConfig
from tasks.sae.config import SAEConfig
from tasks.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Settings of one training run."""

    sae: SAEConfig
    train: TrainConfig
    hooks: HookRoles
    """Which activations are read, and which are rebuilt."""
    model: str | None = None
    """Name of the model whose activations they are; None where they are the user's own."""
    revision: str | None = None
    """The model's revision on the hub, where one was asked for."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where the workers run."""
    init_content: str | None = None
    """Hash of the SAE that training begins from (``train.init_from``)."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """Settings of other stages by group, which loggers show beside these."""
