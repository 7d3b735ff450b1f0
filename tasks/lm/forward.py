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
    """Tokens that the model knows, always the same ones, on its device; none that means something to it, as padding does."""
    device = next(model.parameters()).device
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    n = min(getattr(embedding, "num_embeddings", 2), 2**31)
    special = _special_tokens(getattr(model, "config", None))
    plain = next((i for i in range(n) if i not in special), 0)
    ids = torch.randint(0, n, (batch, context), generator=torch.Generator().manual_seed(0))
    ids[torch.isin(ids, torch.tensor(sorted(special), dtype=torch.long))] = plain
    return ids.to(device)


def _special_tokens(config: Any) -> set[int]:
    """Padding, BOS, images' places ...: whatever the configuration and its parts name as a token."""
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))]
    named = [vars(part) for part in parts if part is not None]
    ends = ("token_id", "token_index")
    return {value for part in named for name, value in part.items() if name.endswith(ends) and isinstance(value, int)}
