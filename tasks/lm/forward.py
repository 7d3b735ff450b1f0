"""How a model reads tokens: one way for capturing, listing, pruning and splicing."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn


def read(model: nn.Module, token_ids: Tensor) -> Any:
    """A forward pass over ``token_ids`` [batch, context], every one of which is attended to.

    Of an encoder-decoder it is the encoder's.
    """
    reader = encoder(model) or model
    # The cache of keys and values is for generation; it would hold every layer's for nothing.
    parameters = inspect.signature(reader.forward).parameters
    return reader(input_ids=token_ids, **({"use_cache": False} if "use_cache" in parameters else {}))


def encoder(model: Any) -> nn.Module | None:
    """The part of an encoder-decoder that reads text; None of any other model, which reads it itself."""
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False) or not hasattr(model, "get_encoder"):
        return None
    found = model.get_encoder()
    return found if isinstance(found, nn.Module) and found is not model else None


def random_tokens(model: Any, batch: int, context: int) -> Tensor:
    """Tokens that the model knows, always the same ones, on its device; padding is not among them."""
    device = next(model.parameters()).device
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    n = min(getattr(embedding, "num_embeddings", 2), 2**31)
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    ids = torch.randint(0, n, (batch, context), generator=torch.Generator().manual_seed(0))
    ids[ids == padding] = 0 if padding else min(1, n - 1)
    return ids.to(device)
