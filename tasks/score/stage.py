"""The fourth stage: an SAE measured on held-out activations."""

from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from tasks.activations.manifest import require_hooks
from tasks.errors import InputError
from tasks.hook_roles import HookRoles, require_known, roles_among
from tasks.lm.config import ModelConfig
from tasks.progress import Listener
from tasks.ray_config import RayConfig
from tasks.recipe import differing
from tasks.score.config import ScoreConfig
from tasks.score.job import ScoreJob
from tasks.score.recipe import FIXED, OF_TEXT
from tasks.stage import Recipe, Stage
from tasks.storage.artifacts import read_json, require_manifest
from tasks.storage.paths import shown


@dataclass(frozen=True, kw_only=True)
class ScoreStage(Stage, name="score", result="scores", folder="scores", version=2, reads=("tokens", "activations", "sae")):
    """SAE and held-out activations -> scores."""

    settings: ScoreConfig
    model: ModelConfig | None = None
    """The model of the activations. None: latents are not told in tokens, nor is the SAE spliced into it."""
    cluster: RayConfig = field(default_factory=RayConfig)
    hooks: HookRoles | None = None
    """Which hooks the SAE reads and rebuilds. None: as its ``config.json`` says."""
    tokens: str | None = None
    """None: there is no text to be shown."""
    activations: str = ""
    sae: str = ""

    @override
    def recipe(self) -> Recipe:
        """Settings, and the SAE, which is of one set of activations."""
        unread = ScoreConfig.not_in_recipe | (OF_TEXT if self.tokens is None else frozenset())
        return Recipe({"score": differing(self.settings, FIXED, unread)}, (self.sae,))

    def job(self) -> ScoreJob:
        """What each piece of work is given.

        Raises:
            InputError: the SAE and the activations do not belong together.
            ArtifactError: the SAE or the activations are unfinished or damaged.
        """
        there = require_hooks(self.activations, require_manifest(self.activations))
        if self.hooks is not None:
            hooks = require_known(self.hooks, there, self.activations)
        else:
            hooks = roles_among(there, self._sae_settings(), self.sae, self.activations)
        return ScoreJob(
            settings=self.settings,
            hooks=hooks,
            sae=self.sae,
            activations=self.activations,
            tokens=self.tokens,
            model=None if self.model is None else self.model.absolute(),
        )

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Score."""
        from tasks.score.ray_score import score

        if not self.finished(out):
            score(self.job(), self.cluster, out, listener)

    def _sae_settings(self) -> dict[str, Any]:
        settings = read_json(self.sae, "config.json")
        if settings is None:
            raise InputError(
                f"There is no SAE at {shown(self.sae)}: a directory with config.json and sae.safetensors was expected, as "
                "saemill train or saemill import prints it."
            )
        return settings
