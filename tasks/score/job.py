"""What is scored, as every piece of work is given it; nothing here needs torch."""

from dataclasses import dataclass
from typing import Any

from tasks.activations.multi_hook import AnySplit, open_split
from tasks.encode.pieces import Piece, cut
from tasks.hook_roles import HookRoles
from tasks.lm.config import ModelConfig
from tasks.score.config import ScoreConfig
from tasks.score.roles import Roles, roles_of
from tasks.storage.artifacts import require_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """What is scored, and with which settings; small, since every piece of work gets it."""

    settings: ScoreConfig
    hooks: HookRoles
    """Of the SAE, by the names that the activations have for them."""
    sae: str
    activations: str
    tokens: str | None = None
    """None: there is no text to be shown."""
    model: ModelConfig | None = None
    """The model of the activations, with an absolute path. None: latents are not told in tokens, nor is it spliced."""
    gpus: float = 0.0
    """What each task reserves; 0: it works on a CPU."""

    @property
    def device(self) -> str:
        """Where each task works, by torch's name. Ray shows a task only the GPU that it reserves."""
        return "cuda" if self.gpus else "cpu"

    def split(self, name: str) -> AnySplit:
        """The train or eval rows of the hooks that the SAE was trained on, side by side."""
        return open_split(self.activations, self.hooks.all, name)

    @property
    def roles(self) -> Roles:
        """Which hooks are read and which are rebuilt."""
        return roles_of(self.hooks, self.split("train"))

    @property
    def pieces(self) -> list[Piece]:
        """All held-out rows that are scored."""
        return cut(self.split("eval"), self.settings.max_tokens)

    def statistics(self, split: str) -> list[dict[str, Any]]:
        """Recorded statistics of the activations at each hook that is rebuilt."""
        hooks = require_manifest(self.activations)["hooks"]
        return [hooks[hook]["statistics"][split] for hook in self.hooks.outputs]
