"""What a module takes or gives, read as one activation per token: the first tensor of a tuple, heads side by side."""

import sys
from typing import Any

from torch import Tensor

from tasks.errors import InputError


def _is_model_output(value: Any) -> bool:
    """Whether transformers gave it. Not imported for that: it takes seconds, and runs without a model do without."""
    module = sys.modules.get("transformers.utils")
    return module is not None and isinstance(value, module.ModelOutput)


def first(output: Any) -> Any:
    """The first entry of nested tuples, lists and transformers' outputs."""
    while (isinstance(output, (tuple, list)) or _is_model_output(output)) and len(output):
        output = output[0]
    return output


def with_first(output: Any, new: Tensor) -> Any:
    """A copy of ``output``, of the same nested types, with another first entry."""
    if _is_model_output(output):
        name = next(iter(output))
        return type(output)(**{**output, name: with_first(output[name], new)})
    if not isinstance(output, (tuple, list)) or not len(output):
        return new
    entries = [with_first(output[0], new), *output[1:]]
    if hasattr(output, "_fields"):  # a named tuple
        return type(output)(*entries)
    return type(output)(entries)


def per_token(hook: str, value: Any, token_ids: Tensor) -> Tensor:
    """The tensor as [batch, context, d_in].

    Raises:
        InputError: it is no tensor of floats, or its leading axes are not batch and context.
    """
    batch, context = token_ids.shape
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = f"{value.dtype} numbers" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"Hook {hook!r} gives {found}, not a tensor of activations; name another module.")
    packed = value.ndim == 2 and len(value) == batch * context
    if not packed and (value.ndim < 3 or value.shape[:2] != token_ids.shape):
        raise InputError(
            f"Hook {hook!r} gives shape {list(value.shape)} for {batch} sequences of {context} tokens, but its first "
            "axes must be batch and context; name another module."
        )
    return value.reshape(batch, context, -1)


def rows(value: Tensor) -> Tensor:
    """[batch, context, ...] or [n, d_in] as [n, d_in]."""
    return value if value.ndim == 2 else value.flatten(2).flatten(0, 1)
