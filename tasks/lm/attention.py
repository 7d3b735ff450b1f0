"""Which of transformers' implementations of attention a model runs on."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from tasks.lm.forward import random_tokens
from tasks.lm.watch import capture

logger = logging.getLogger(__name__)

FLASH = "flash_attention_2"
_PROBE_TOKENS = 16


def choose_attention(model: Any, hooks: Sequence[str]) -> None:
    """Have a model on a GPU run on flash-attn, where that is installed and the model's precision fits.

    All others keep what transformers chose: torch's own kernels (sdpa), or plain products where the family has no sdpa.
    Whether flash-attn knows the family, its heads and the GPU, it is asked by a forward pass over a few tokens to ``hooks``.
    """
    if _suits_flash(model):
        own = model.config._attn_implementation
        try:
            model.set_attn_implementation(FLASH)
            capture(model, hooks, random_tokens(model, 1, _PROBE_TOKENS))
        except (
            Exception
        ) as error:  # ImportError, ValueError, RuntimeError, ...: what each of the three lacks, it says otherwise
            logger.warning("flash-attn cannot run this model (%s); going on with %s", str(error).partition("\n")[0], own)
            model.set_attn_implementation(own)


def _suits_flash(model: Any) -> bool:
    half = model.dtype in (torch.bfloat16, torch.float16)
    return bool(half and model.device.type == "cuda" and is_flash_attn_2_available())
