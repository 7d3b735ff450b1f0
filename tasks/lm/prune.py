"""Dropping the weights that a harvest does not need."""

import contextlib
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.lm.forward import random_tokens
from tasks.lm.watch import capture
from tasks.storage.faults import reason_of

logger = logging.getLogger(__name__)

Weights = dict[nn.Module, tuple[dict[str, Any], dict[str, Any]]]

# Beyond all distances that DeBERTa tells apart (512), and more than the 704 tokens below which BigBird attends differently,
# and does so ever after.
_PROBE_TOKENS = 1_024
# Of a large model fewer, since the CPU that prunes may have to emulate the model's precision, at some 7 GFLOP/s a thread:
# 1,024 tokens through half of 7B, twice, take half an hour there, 71 some two minutes (computed, not measured). The
# largest BigBird, Pegasus of 577 million parameters, gets 866.
_PROBE_WORK = 5e11  # parameters x tokens
_LEAST_TOKENS = 16


def prune_after(model: nn.Module, hooks: Sequence[str], context_length: int = 16) -> int:
    """Drop the weights of all that a forward pass reaches only after the last hook; returns the bytes freed.

    Some models read a part's weights without calling it: DeBERTa's layers read ``encoder.rel_embeddings``, and go on in
    silence where it has none. So activations of random tokens are compared before and after, and where a bit differs
    the model stays whole. Afterwards only ``capture`` of these hooks works on it, and it can be moved to a device as it is.

    Args:
        model: on the CPU.
        hooks: all that will be captured.
        context_length: tokens per sequence of the harvest. The probe is as long, up to 1,024, or fewer of a large model.

    Raises:
        InputError: as ``capture``.
    """
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    token_ids = random_tokens(model, 1, _probe_tokens(context_length, n_parameters))
    try:
        before, parts = _needless(model, hooks, token_ids)
    except RuntimeError as error:  # such as an operation that the CPU does not know in float16; the GPU that harvests may
        logger.warning(
            "the model keeps all its weights: the CPU cannot run it to tell which are needed (%s)", reason_of(error)
        )
        return 0
    whole = _weight_bytes(model)
    dropped = _drop_weights(parts)
    if not _same(model, hooks, token_ids, before):
        _put_back(dropped)
        logger.warning(
            "the model keeps all its weights: without those that come after %s its activations there are others",
            " and ".join(hooks),
        )
    return whole - _weight_bytes(model)


def _probe_tokens(context_length: int, n_parameters: int) -> int:
    affordable = max(_LEAST_TOKENS, int(_PROBE_WORK // max(1, n_parameters)))
    return min(context_length, _PROBE_TOKENS, affordable)


def _needless(model: nn.Module, hooks: Sequence[str], token_ids: Tensor) -> tuple[dict[str, Tensor], list[nn.Module]]:
    """The activations, and the parts that a forward pass which ends at the last of them has still before it."""
    began: dict[nn.Module, int] = {}
    unfinished: set[nn.Module] = set()
    clock = itertools.count()

    def enter(module: nn.Module, _: Any) -> None:
        began[module] = next(clock)
        unfinished.add(module)

    def leave(module: nn.Module, *_: Any) -> None:
        unfinished.discard(module)

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            stack.enter_context(module.register_forward_pre_hook(enter))
            stack.enter_context(module.register_forward_hook(leave))
        found = capture(model, hooks, token_ids)
    return found, _unreached(model, began, unfinished)


def _same(model: nn.Module, hooks: Sequence[str], token_ids: Tensor, before: dict[str, Tensor]) -> bool:
    """Whether the activations are to the bit what they were; NaN, as of a model of random weights, is equal to itself."""
    try:
        after = capture(model, hooks, token_ids)
    except Exception as error:  # a weight that is None may fail in any way, and then it was needed
        logger.debug("without the weights after %s: %r", hooks, error)
        return False
    return all(torch.equal(before[hook].nan_to_num(), after[hook].nan_to_num()) for hook in hooks)


def _unreached(module: nn.Module, began: dict[nn.Module, int], unfinished: set[nn.Module]) -> list[nn.Module]:
    """Parts that an interrupted module had still before it: those not begun and listed after the one it was in.

    Parts listed earlier stay even if they were not called: some modules use a part's weights without calling it.
    """
    parts = list(module.children())
    last = [max((began.get(part, -1) for part in child.modules()), default=-1) for child in parts]
    here = max(range(len(parts)), key=last.__getitem__, default=-1)
    if here < 0 or last[here] < 0:
        return parts
    found = [part for part, order in zip(parts[here + 1 :], last[here + 1 :], strict=True) if order < 0]
    if parts[here] in unfinished or parts[here] not in began:  # a list of layers never begins itself
        found += _unreached(parts[here], began, unfinished)
    return found


def _drop_weights(parts: list[nn.Module]) -> Weights:
    """Take the weights of these parts away; returns them."""
    # None rather than meta tensors: Module.to refuses those. Weights shared with a module in use live on there.
    dropped: Weights = {}
    for module in {inner for part in parts for inner in part.modules()}:
        dropped[module] = dict(module._parameters), dict(module._buffers)
        module._parameters.update(dict.fromkeys(module._parameters))
        module._buffers.update(dict.fromkeys(module._buffers))
    return dropped


def _put_back(dropped: Weights) -> None:
    for module, (parameters, buffers) in dropped.items():
        module._parameters.update(parameters)
        module._buffers.update(buffers)


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
