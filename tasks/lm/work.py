"""How much work a model is: floating-point operations of a forward pass, counted on its skeleton, without weights."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tasks.lm.forward import random_tokens, read
from tasks.lm.listing import weightless
from tasks.lm.modules import find_module
from tasks.lm.names import parse_hook
from tasks.lm.watch import capture

logger = logging.getLogger(__name__)


def flop_to(model: Any, hooks: Sequence[str], context_length: int) -> float | None:
    """Of one sequence up to the last of these hooks; products alone are counted, which are nearly all of a model's work.

    None where the model does not run without weights.
    """
    return _counted(model, lambda skeleton: capture(skeleton, hooks, random_tokens(skeleton, 1, context_length)))


def flop_of(model: Any, context_length: int) -> float | None:
    """Of one sequence through the whole model, its unembedding included; None as for ``flop_to``."""
    return _counted(model, lambda skeleton: read(skeleton, random_tokens(skeleton, 1, context_length)))


def numbers_to(model: Any, hooks: Sequence[str]) -> int:
    """Weights of all modules that are listed in the model no later than the last of these hooks and what they consist of.

    Raises:
        InputError: the model has no such hook.
    """
    wanted = [parse_hook(hook).module for hook in hooks]
    for hook in hooks:
        find_module(model, hook)
    names = [name for name, _ in model.named_modules()]
    last = max(i for i, name in enumerate(names) if any(name == one or name.startswith(f"{one}.") for one in wanted))
    own = [module.parameters(recurse=False) for _, module in list(model.named_modules())[: last + 1]]
    return sum({id(parameter): parameter.numel() for found in own for parameter in found}.values())


def _counted(model: Any, run: Callable[[Any], object]) -> float | None:
    for attempt in (lambda: model, lambda: weightless(model)):
        try:
            # Fused attention is not among what is counted on the meta device (torch 2.13).
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                run(attempt())
            return float(counter.get_total_flops())
        except Exception as error:  # whatever a model raises that branches on values, which meta tensors do not have
            logger.debug("the work of %s cannot be counted so: %r", type(model).__name__, error)
    return None
