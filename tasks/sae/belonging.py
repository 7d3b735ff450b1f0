"""Which activations a finished SAE is for, and what its training came to, as ``config.json`` says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

_LAYER = re.compile(r"\.(\d+)(?=[.:@]|$)")


@dataclass(frozen=True, slots=True)
class Belonging:
    """Of an imported SAE, names are those of its own library; what is not known is None or empty."""

    model: str | None = None
    revision: str | None = None
    hooks: tuple[str, ...] = ()
    """Whose activations are encoded: one hook's, or those of a crosscoder's several, side by side."""
    target_hook: str | None = None
    """Whose activations a transcoder rebuilds."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Tokens, steps, and the last loss, fvu, l0 and share of dead latents."""
    imported_from: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Belonging":
        """From ``config.json``; what is of another type than expected counts as not known."""
        several = settings.get("hooks")
        hooks = several if isinstance(several, list) else [settings.get("hook")]
        training = settings.get("training")
        return cls(
            model=_text(settings.get("model")),
            revision=_text(settings.get("revision")),
            hooks=tuple(hook for hook in hooks if isinstance(hook, str)),
            target_hook=_text(settings.get("target_hook")),
            training=training if isinstance(training, dict) else {},
            imported_from=_text(settings.get("imported_from")),
        )

    @property
    def hook(self) -> str | None:
        """The one hook, or None where there is none or several."""
        return self.hooks[0] if len(self.hooks) == 1 else None

    @property
    def layer(self) -> int | None:
        """The number in the hook's name, where it has one."""
        found = _LAYER.search(self.hook or "")
        return int(found.group(1)) if found else None

    @override
    def __str__(self) -> str:
        parts = [f"model {self.model}"] if self.model else []
        parts += [f"hook{'s' if len(self.hooks) > 1 else ''} {', '.join(self.hooks)}"] if self.hooks else []
        parts += [f"rebuilds {self.target_hook}"] if self.target_hook else []
        tokens = self.training.get("tokens")
        parts += [f"{tokens:,} training tokens"] if isinstance(tokens, int) else []
        parts += [f"imported from {self.imported_from}"] if self.imported_from else []
        return ", ".join(parts)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
