"""transformers as an engine: hooks on the modules of a model in this process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.lm.engines.parity import Parity
from tasks.lm.hooks import capture

Capture = Callable[[PreTrainedModel, Sequence[str], Tensor], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class TransformersEngine:
    """A model of transformers, all modules of which can be hooks."""

    model: PreTrainedModel
    take: Capture | None = None
    """Takes activations of a model that several processes hold together; None: this process has all of it."""
    parity: Mapping[str, Parity] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """That of the model."""
        device: torch.device = self.model.device
        return device

    @property
    def attention(self) -> str:
        """As transformers calls it."""
        return str(self.model.config._attn_implementation)

    def hidden(self, hooks: Sequence[str], token_ids: Tensor) -> dict[str, Tensor]:
        """Activations at each hook, from a forward pass that ends at the last of them; see ``capture``."""
        return (self.take or capture)(self.model, hooks, token_ids)
