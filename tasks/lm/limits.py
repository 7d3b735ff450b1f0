"""How many tokens a model can read, and which: found before any work, from its skeleton."""

import logging
from typing import Any

import torch
from torch import nn

from tasks.errors import InputError
from tasks.lm.forward import random_tokens, read
from tasks.lm.listing import weightless
from tasks.lm.modules import first_layer

logger = logging.getLogger(__name__)

# The names under which configurations say for how many positions a model was made.
_DECLARED = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
_SPARE = 16  # RoBERTa says 514 and reads 512: the two below its padding's are lost
_MOST_SCORES = 2**28  # of one layer's attention, 1 GiB in float32; OLMo's 4,096 tokens by 16 heads are as many


class _EndForward(Exception):  # noqa: N818  # a signal, not an error
    """Leaves a forward pass behind its first layer, where positions have been looked up."""


def check_context(skeleton: Any, context_length: int) -> None:
    """Refuse sequences that are longer than the model has positions.

    A table of positions ends somewhere, rotary and relative ones do not. So where the configuration declares no more than
    ``context_length``, such a sequence is read up to the first layer's end, by a model without weights. What can be read
    but is more than declared gets a line in the log.

    Args:
        skeleton: on the meta device.
        context_length: tokens per sequence.

    Raises:
        InputError: the sequences are too long.
    """
    text = skeleton.config.get_text_config() if hasattr(skeleton, "config") else None
    declared = min((n for name in _DECLARED if isinstance(n := getattr(text, name, None), int) and n > 0), default=None)
    if declared is None or context_length <= declared - _SPARE:
        return
    model = weightless(skeleton)
    if _reads(model, context_length):
        if context_length > declared:
            logger.warning(
                "text.context_length is %d but the model was made for %d positions; it can read more, if not well",
                context_length,
                declared,
            )
        return
    few = range(min(declared, context_length), max(0, declared - _SPARE), -1)
    most = next((n for n in few if _reads(model, n)), declared)
    raise InputError(
        f"text.context_length is {context_length} but the model reads at most {most} tokens at once. Lower it to {most}."
    )


def _reads(model: nn.Module, context_length: int) -> bool:
    """Whether the model has a position for each of so many tokens."""

    def stop(*_: Any) -> None:
        raise _EndForward

    layer = first_layer(model)
    heads = getattr(getattr(model, "config", None), "num_attention_heads", None)
    brief = isinstance(heads, int) and heads * context_length**2 > _MOST_SCORES
    handle = None
    if layer is not None:
        handle = layer.register_forward_pre_hook(stop) if brief else layer.register_forward_hook(stop)
    try:
        with torch.no_grad():
            read(model, random_tokens(model, 1, context_length))
    except _EndForward:
        return True
    except (IndexError, RuntimeError, ValueError):
        return False
    finally:
        if handle is not None:
            handle.remove()
    return True


def check_vocabulary(tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer of another model, whose words have ids that the model does not know.

    Added tokens may have such ids: a padding token is often added behind the last row, and never met in text.

    Raises:
        InputError: some words' ids are beyond the embedding.
    """
    highest = max(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    if highest >= rows:
        raise InputError(
            f"The tokenizer's ids go up to {highest} but the model's embedding ends at {rows - 1}: they are not of the same "
            "model. Put the model's own tokenizer.json beside its weights."
        )


def check_tokens(tokenizer: Any, highest: int, rows: int) -> None:
    """Refuse a token that the model does not know.

    Args:
        tokenizer: that made the tokens.
        highest: the highest id among them.
        rows: of the model's embedding.

    Raises:
        InputError: the id is beyond the embedding.
    """
    if highest >= rows:
        raise InputError(
            f"Text became token {highest} ({tokenizer.convert_ids_to_tokens(highest)!r}), but the model's embedding ends at "
            f"{rows - 1}. Use the tokenizer that belongs to the model, or take that token out of the text."
        )
