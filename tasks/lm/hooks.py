"""Reading and replacing activations at any module of a transformers model.

A hook is a module's dotted name, which stands for its output, or the name with ``:input`` behind it. What a module
takes or gives is read as one activation per token: the first tensor of a tuple, heads side by side.
"""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.utils import ModelOutput

from tasks.errors import InputError
from tasks.lm.names import find_module, hook_names, parse_hook

__all__ = [
    "HookInfo",
    "capture",
    "find_module",
    "hook_names",
    "hook_width",
    "list_hooks",
    "parse_hook",
    "prune_after",
    "replace",
]


class _Stop(Exception):  # noqa: N818  # a signal that all is seen, not an error
    """Leaves a forward pass at the last hook."""


def capture(model: nn.Module, hooks: Sequence[str], token_ids: Tensor) -> dict[str, Tensor]:
    """Activations at each hook, from a forward pass that ends at the last of them.

    Args:
        model: any transformers model that reads ``input_ids``.
        hooks: one or more hooks, in any order.
        token_ids: int [batch, context], on the model's device; every token is attended to.

    Returns:
        For each hook [batch, context, d_in] in the model's dtype, free of gradients.

    Raises:
        InputError: a hook does not exist, is not reached by a forward pass, or holds no activation per token.
    """
    seen: dict[str, Tensor] = {}

    def observe(hook: str, value: Any) -> None:
        rows = _per_token(hook, value, token_ids)
        last = len({*seen, hook}) == len(set(hooks))
        seen[hook] = rows if last else rows.clone()  # the rest of the pass may work in place
        if last:
            raise _Stop

    with contextlib.ExitStack() as stack, torch.no_grad(), contextlib.suppress(_Stop):
        for hook in set(hooks):
            stack.enter_context(_attached(model, hook, functools.partial(observe, hook)))
        _forward(model, token_ids)
    for hook in hooks:
        if hook not in seen:
            raise _never_reached(hook)
    return {hook: seen[hook] for hook in hooks}


def hook_width(model: nn.Module, hook: str) -> int:
    """d_in at a hook, from a forward pass over six tokens; a skeleton on the meta device will do.

    Raises:
        InputError: as ``capture``, or the module runs several times per pass, so that its activation is ambiguous.
    """
    widths: list[int] = []
    token_ids = torch.zeros(2, 3, dtype=torch.long, device=next(model.parameters()).device)

    def measure(value: Any) -> None:
        widths.append(_per_token(hook, value, token_ids).shape[-1])

    try:
        with _attached(model, hook, measure), torch.no_grad():
            _forward(model, token_ids)
    except RuntimeError:
        if token_ids.device.type != "meta":
            raise
        return hook_width(_zeroed(model), hook)  # some models branch on values, which meta tensors do not have
    if not widths:
        raise _never_reached(hook)
    if len(widths) > 1:
        raise InputError(f"Hook {hook!r} runs {len(widths)} times per forward pass, so its activation is ambiguous.")
    return widths[0]


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
    """All modules that give one activation per token, once per forward pass, by depth; from a single pass.

    Args:
        model: a skeleton on the meta device will do.
    """
    token_ids = torch.zeros(2, 3, dtype=torch.long, device=next(model.parameters()).device)
    modules = {name: model.get_submodule(name) for name in hook_names(model)}
    depths: dict[str, int] = {}
    widths: dict[str, list[int]] = {name: [] for name in modules}

    def enter(name: str, *_: Any) -> None:
        depths.setdefault(name, len(depths))

    def leave(name: str, _: nn.Module, __: Any, output: Any) -> None:
        with contextlib.suppress(InputError):  # no activation per token, such as rotary embeddings
            widths[name].append(_per_token(name, _first(output), token_ids).shape[-1])

    try:
        with contextlib.ExitStack() as stack, torch.no_grad():
            for name, module in modules.items():
                stack.enter_context(module.register_forward_pre_hook(functools.partial(enter, name)))
                stack.enter_context(module.register_forward_hook(functools.partial(leave, name)))
            _forward(model, token_ids)
    except RuntimeError:
        if token_ids.device.type != "meta":
            raise
        return list_hooks(_zeroed(model))  # as in hook_width
    once = [name for name in sorted(depths, key=depths.__getitem__) if len(widths[name]) == 1]
    return [HookInfo(name, widths[name][0], depths[name], type(modules[name]).__name__) for name in once]


@contextlib.contextmanager
def replace(model: nn.Module, hook: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this is open, the model goes on with ``function(activation)`` in place of the activation at a hook.

    ``function`` maps [n, d_in] to [n, d_in], n being batch times context in that order; its result is cast to the
    activation's dtype.

    Raises:
        InputError: the model has no such module.
    """

    def substitute(value: Tensor) -> Tensor:
        return function(_rows(value)).to(value.dtype).reshape(value.shape)

    with _attached(model, hook, substitute):
        yield


def prune_after(model: nn.Module, hooks: Sequence[str]) -> int:
    """Drop the weights of all that a forward pass reaches only after the last hook; returns the bytes freed.

    Afterwards only ``capture`` of these hooks works on the model, which can be moved to a device as it is.

    Raises:
        InputError: as ``capture``.
    """
    began: dict[nn.Module, int] = {}
    unfinished: set[nn.Module] = set()
    clock = itertools.count()

    def enter(module: nn.Module, _: Any) -> None:
        began[module] = next(clock)
        unfinished.add(module)

    def leave(module: nn.Module, *_: Any) -> None:
        unfinished.discard(module)

    before = _weight_bytes(model)
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            stack.enter_context(module.register_forward_pre_hook(enter))
            stack.enter_context(module.register_forward_hook(leave))
        capture(model, hooks, torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device))
    for part in _unreached(model, began, unfinished):
        _drop_weights(part)
    return before - _weight_bytes(model)


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


def _drop_weights(module: nn.Module) -> None:
    # None rather than meta tensors: Module.to refuses those. Weights shared with a module in use live on there.
    for part in module.modules():
        part._parameters.update(dict.fromkeys(part._parameters))
        part._buffers.update(dict.fromkeys(part._buffers))


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _attached(model: nn.Module, hook: str, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call ``function`` on the tensor at a hook; what it returns, unless None, takes the tensor's place."""
    module = find_module(model, hook)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = function(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        new = function(kwargs[name])
        return None if new is None else (args, kwargs | {name: new})

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        new = function(_first(output))
        return new if new is None or isinstance(output, Tensor) else _with_first(output, new)

    if parse_hook(hook).side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def _first(output: Any) -> Any:
    while isinstance(output, (tuple, list, ModelOutput)) and len(output):
        output = output[0]
    return output


def _with_first(output: Any, new: Tensor) -> Any:
    if isinstance(output, ModelOutput):
        return type(output)(**{**output, next(iter(output)): new})
    return (new, *output[1:])


def _per_token(hook: str, value: Any, token_ids: Tensor) -> Tensor:
    """The tensor as [batch, context, d_in].

    Raises:
        InputError: it is no tensor of floats, or its leading axes are not batch and context.
    """
    batch, context = token_ids.shape
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise InputError(f"Hook {hook!r} gives {type(value).__name__}, not a tensor of activations; name another module.")
    packed = value.ndim == 2 and len(value) == batch * context
    if not packed and (value.ndim < 3 or value.shape[:2] != token_ids.shape):
        raise InputError(
            f"Hook {hook!r} gives shape {list(value.shape)} for {batch} sequences of {context} tokens, but its first "
            "axes must be batch and context; name another module."
        )
    return value.reshape(batch, context, -1)


def _rows(value: Tensor) -> Tensor:
    """[batch, context, ...] or [n, d_in] as [n, d_in]."""
    return value if value.ndim == 2 else value.flatten(2).flatten(0, 1)


def _forward(model: nn.Module, token_ids: Tensor) -> Any:
    # The cache of keys and values is for generation; it would hold every layer's for nothing.
    parameters = inspect.signature(model.forward).parameters
    model(input_ids=token_ids, **({"use_cache": False} if "use_cache" in parameters else {}))


def _zeroed(skeleton: nn.Module) -> nn.Module:
    """A copy of a skeleton on the CPU, all weights zero."""
    copy = deepcopy(skeleton).to_empty(device="cpu")
    for tensor in (*copy.parameters(), *copy.buffers()):
        tensor.data.zero_()
    return copy


def _never_reached(hook: str) -> InputError:
    return InputError(f"Hook {hook!r} is never reached: the model does not call that module when it reads text.")
