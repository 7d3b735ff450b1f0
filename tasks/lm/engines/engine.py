"""What an engine is: whatever runs a model's forward pass and gives what is at hooks."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tasks.lm.engines.parity import Parity


class Engine(Protocol):
    """A loaded model, called by one thread at a time."""

    @property
    def device(self) -> torch.device:
        """Where it takes token ids, and gives activations."""
        ...

    @property
    def attention(self) -> str:
        """The implementation of attention that it runs on."""
        ...

    @property
    def parity(self) -> Mapping[str, Parity]:
        """By hook, how far it was from transformers when it was loaded; empty of transformers itself."""
        ...

    def hidden(self, hooks: Sequence[str], token_ids: Tensor) -> dict[str, Tensor]:
        """Activations [batch, context, d_in] at each hook, of ``token_ids`` [batch, context], every one attended to.

        Raises:
            InputError: the model has no such hook, or no place for so many tokens.
        """
        ...
