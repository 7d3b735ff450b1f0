"""A model cut short behind the last hook, where it computes the same there without its later layers.

transformers reads the tensors that a model has modules for, and no others: with a configuration of fewer layers, the later
ones are never read. But some models compute otherwise with fewer layers: MiniCPM3 divides by the root of their number,
MiniMax' decay depends on it, Gemma-3n shares keys and values among the last ones. So both models are built without weights,
and the shorter one is taken only if it does the same operations, one by one, on the same weights.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tasks.lm.names import parse_hook
from tasks.lm.operations import operations
from tasks.storage.faults import reason_of

logger = logging.getLogger(__name__)

# The names under which configurations say how many layers there are.
_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
)
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Truncation:
    """A configuration of fewer layers."""

    config: Any
    layers: str
    """The list of layers, as the model's modules are called: 'model.layers'."""
    kept: int
    of: int


class _NotCut(Exception):  # noqa: N818  # no error: the whole model is loaded instead
    """Why a model is not cut short, as the end of a sentence."""


def truncation(config: Any, hooks: Sequence[str], build: Callable[[Any], nn.Module]) -> Truncation | None:
    """The shortest model that gives the same activations at the hooks, to the bit; None where the whole one is needed.

    Args:
        config: the whole model's configuration, which stays as it is.
        hooks: all that will be captured.
        build: makes a skeleton, on the meta device, of a configuration.
    """
    try:
        found = _shorter(config, hooks, build)
    except Exception as error:  # whatever a family raises at a number of layers that its other settings do not fit
        logger.info("the whole model is loaded: %s", reason_of(error))
        return None
    logger.info("of %s the first %d of %d are loaded", found.layers, found.kept, found.of)
    return found


def _shorter(config: Any, hooks: Sequence[str], build: Callable[[Any], nn.Module]) -> Truncation:
    whole = build(copy.deepcopy(config))  # the building writes into it
    layers, kept = _last_needed(hooks)
    of = _length(whole, layers)
    if kept >= of:
        raise _NotCut(f"the last hook lies in the last of {layers}")
    found = Truncation(_with_layers(config, kept, of), layers, kept, of)
    part = build(copy.deepcopy(found.config))
    if _length(part, layers) != kept:
        raise _NotCut(f"its configuration does not say how many {layers} there are")
    for i in range(kept):
        _require_equal_settings(whole.get_submodule(f"{layers}.{i}"), part.get_submodule(f"{layers}.{i}"), f"{layers}.{i}")
    if operations(whole, hooks) != operations(part, hooks):
        raise _NotCut(f"with fewer {layers} it computes something else at the hooks")
    return found


def _last_needed(hooks: Sequence[str]) -> tuple[str, int]:
    """The list of layers that the hooks lie in, and up to which they need it.

    A hook outside of any list says nothing here; whether it is reached before the cut is seen from the operations.
    """
    ends: dict[str, int] = {}
    for hook in hooks:
        parts = parse_hook(hook).module.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
        if place:
            name = ".".join(parts[:place])
            ends[name] = max(ends.get(name, 0), int(parts[place]) + 1)
    if len(ends) != 1:
        raise _NotCut(f"the hooks lie in {'several lists' if ends else 'no list'} of layers")
    return next(iter(ends.items()))


def _length(model: nn.Module, layers: str) -> int:
    found = model.get_submodule(layers)
    if not isinstance(found, nn.ModuleList):
        raise _NotCut(f"{layers} is no list of layers")
    return len(found)


def _with_layers(config: Any, kept: int, of: int) -> Any:
    """A copy with ``kept`` layers; lists with an entry for each layer, such as ``layer_types``, are cut alike."""
    made = copy.deepcopy(config)
    text = made.get_text_config()
    for name in _COUNTS:
        if getattr(text, name, None) == of:
            setattr(text, name, kept)
    for name, value in list(vars(text).items()):
        if isinstance(value, (list, tuple)) and len(value) == of:
            setattr(text, name, value[:kept])
    return made


def _require_equal_settings(whole: nn.Module, part: nn.Module, name: str) -> None:
    """What modules were told when they were made: a window wider than a short text leaves no operation that tells it."""
    there, here = _settings(whole), _settings(part)
    if there != here:
        differing = sorted({key for key, _ in there.items() ^ here.items()})
        raise _NotCut(f"its layers depend on their number ({name}.{differing[0]})")


def _settings(layer: nn.Module) -> dict[str, str]:
    found = {}
    for name, module in layer.named_modules():
        found[f"{name}.class".lstrip(".")] = type(module).__name__
        found |= {f"{name}.{key}".lstrip("."): repr(value) for key, value in vars(module).items() if _is_plain(value)}
    return found


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))
