"""Which modules of a model can be hooks, and how wide they are; from its skeleton, without weights.

Each module is watched in two passes over texts of two sizes, since one may mislead: with as many heads as tokens, attention
weights [batch, heads, tokens, tokens] look like activations. What has one width in both is an activation per token.
"""

import contextlib
import functools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.lm.activation import first, per_token
from tasks.lm.forward import random_tokens, read
from tasks.lm.modules import hook_names
from tasks.lm.watch import attached, never_reached

# Sequences and tokens: different from each other, and in the other text.
_PROBES = ((2, 3), (3, 5))
_SMALL = 2**16

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class HookInfo:
    """A module whose output can be harvested."""

    name: str
    width: int
    """d_in."""
    depth: int
    """When a forward pass first calls it: 0 for the first module. A harvest of several hooks runs to the deepest."""
    kind: str
    """The module's class."""


def list_hooks(model: nn.Module) -> list[HookInfo]:
    """All modules that give one activation per token, once per forward pass, by depth.

    Args:
        model: a skeleton on the meta device will do.

    Raises:
        InputError: the model cannot read text.
    """
    names = hook_names(model)
    one, other = in_two_texts(model, functools.partial(_watched, names=names))
    return [
        HookInfo(name, seen.width, seen.depth, type(model.get_submodule(name)).__name__)
        for name, seen in sorted(one.items(), key=lambda item: item[1].depth)
        if seen.calls == 1 and seen.width is not None and other.get(name) == seen
    ]


def hook_width(model: nn.Module, hook: str) -> int:
    """d_in at a hook; a skeleton on the meta device will do.

    Raises:
        InputError: there is no such module, it is not reached, it holds no activation per token, or it runs several times
            per pass, so that its activation is ambiguous; or the model cannot read text.
    """
    one, other = in_two_texts(model, functools.partial(_widths, hook=hook))
    if not one:
        raise never_reached(hook)
    if len(one) > 1:
        raise InputError(f"Hook {hook!r} runs {len(one)} times per forward pass, so its activation is ambiguous.")
    if one != other:
        raise InputError(
            f"Hook {hook!r} is {one[0]} wide for one text and {other[0]} for another, so it is no activation per token; "
            "name another module."
        )
    return one[0]


@dataclass(slots=True)
class _Seen:
    """What a module gave in one forward pass."""

    depth: int
    calls: int = 0
    width: int | None = None
    """Of the last call; None where it gave no activation per token."""


@dataclass(slots=True)
class _Watch:
    """Watches all of a model's modules."""

    token_ids: Tensor
    seen: dict[str, _Seen] = field(default_factory=dict)

    def enter(self, name: str, *_: Any) -> None:
        self.seen.setdefault(name, _Seen(len(self.seen)))

    def leave(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        seen = self.seen[name]
        seen.calls += 1
        with contextlib.suppress(InputError):  # no activation per token, such as rotary embeddings
            seen.width = per_token(name, first(output), self.token_ids).shape[-1]


def _watched(model: nn.Module, token_ids: Tensor, names: list[str]) -> dict[str, _Seen]:
    watch = _Watch(token_ids)
    with contextlib.ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            stack.enter_context(module.register_forward_pre_hook(functools.partial(watch.enter, name)))
            stack.enter_context(module.register_forward_hook(functools.partial(watch.leave, name)))
        read(model, token_ids)
    return watch.seen


def _widths(model: nn.Module, token_ids: Tensor, hook: str) -> list[int]:
    found: list[int] = []

    def measure(value: Any) -> None:
        found.append(per_token(hook, value, token_ids).shape[-1])

    with attached(model, hook, measure):
        read(model, token_ids)
    return found


def in_two_texts(model: nn.Module, look: Callable[[nn.Module, Tensor], Found]) -> tuple[Found, Found]:
    """What ``look`` finds while the model reads a text of either size.

    Raises:
        InputError: the model cannot read text.
    """
    try:
        with torch.no_grad():
            one, other = (look(model, random_tokens(model, *size)) for size in _probes(model))
    except InputError:
        raise
    except Exception as error:  # whatever a model raises at its input, or a damaged configuration makes it raise
        if any(parameter.is_meta for parameter in model.parameters()):  # not all: XLNet makes some on the CPU
            return in_two_texts(weightless(model), look)  # some models branch on values, which meta tensors do not have
        raise InputError(_cannot_read(model, error)) from None
    return one, other


def weightless(skeleton: nn.Module) -> nn.Module:
    """A copy of a skeleton on the CPU, all weights one zero that is seen many times: it takes no memory to speak of."""
    copy = deepcopy(skeleton)
    for module in copy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_zeros(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _positions(buffer) if name == "position_ids" else _zeros(buffer)
    return copy


def _zeros(like: Tensor) -> Tensor:
    # Small ones for real: some modules work in place on their buffers.
    one = torch.zeros((), dtype=like.dtype)
    return one.expand(like.shape) if like.numel() > _SMALL else torch.zeros(like.shape, dtype=like.dtype)


def _positions(like: Tensor) -> Tensor:
    return torch.arange(like.shape[-1], dtype=like.dtype).expand(like.shape)


def _probes(model: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Longformer pads texts to whole windows; only texts that are whole windows are as long within as without."""
    windows = getattr(getattr(model, "config", None), "attention_window", None)
    longest = max(windows) if isinstance(windows, (list, tuple)) else windows
    (a, short), (b, long) = _PROBES
    return ((a, longest), (b, 2 * longest)) if isinstance(longest, int) and longest > 1 else ((a, short), (b, long))


def _cannot_read(model: nn.Module, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    as_it_is = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    advice = "" if as_it_is else " If it can compute in float32 only, set model.dtype to float32."
    return f"The model ({type(model).__name__}) cannot read text here ({reason}).{advice}"
