"""A forward pass watched at hooks: what is there is read, or replaced."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tasks.errors import InputError
from tasks.lm.activation import first, per_token, rows, with_first
from tasks.lm.forward import read
from tasks.lm.modules import find_module
from tasks.lm.names import parse_hook


class _AllSeen(Exception):  # noqa: N818  # a signal that all is seen, not an error
    """Leaves a forward pass at the last hook."""


def capture(model: nn.Module, hooks: Sequence[str], token_ids: Tensor) -> dict[str, Tensor]:
    """Activations at each hook, from a forward pass that ends at the last of them.

    Args:
        model: any transformers model that reads ``input_ids``; of an encoder-decoder the encoder is read.
        hooks: one or more hooks, in any order.
        token_ids: int [batch, context], on the model's device; every token is attended to.

    Returns:
        For each hook [batch, context, d_in] in the model's dtype, free of gradients.

    Raises:
        InputError: a hook does not exist, is not reached by a forward pass, or holds no activation per token; or the
            model has no place for so many tokens, or for one of them.
    """
    seen: dict[str, Tensor] = {}

    def observe(hook: str, value: Any) -> None:
        found = per_token(hook, value, token_ids)
        last = len({*seen, hook}) == len(set(hooks))
        seen[hook] = found if last else found.clone()  # the rest of the pass may work in place
        if last:
            raise _AllSeen

    with contextlib.ExitStack() as stack, torch.no_grad(), contextlib.suppress(_AllSeen):
        for hook in set(hooks):
            stack.enter_context(attached(model, hook, functools.partial(observe, hook)))
        try:
            read(model, token_ids)
        except IndexError as error:
            raise InputError(
                f"The model cannot read {token_ids.shape[1]} tokens, the highest of them {int(token_ids.max())}: {error}. "
                "Lower text.context_length, or use the tokenizer that belongs to the model."
            ) from None
    for hook in hooks:
        if hook not in seen:
            raise never_reached(hook)
    return {hook: seen[hook] for hook in hooks}


@contextlib.contextmanager
def replace(model: nn.Module, hook: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this is open, the model goes on with ``function(activation)`` in place of the activation at a hook.

    ``function`` maps [n, d_in] to [n, d_in], n being batch times context in that order; its result is cast to the
    activation's dtype, and stands in a container of the same type as the activation did.

    Raises:
        InputError: the model has no such module.
    """

    def substitute(value: Tensor) -> Tensor:
        return function(rows(value)).to(value.dtype).reshape(value.shape)

    with attached(model, hook, substitute):
        yield


def attached(model: nn.Module, hook: str, function: Callable[[Any], Tensor | None]) -> RemovableHandle:
    """Call ``function`` on what is at a hook; what it returns, unless None, takes its place.

    Raises:
        InputError: the model has no such module, or, later, the forward pass gives it no input.
    """
    module = find_module(model, hook)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = function(first(args[0]))
            return None if new is None else ((with_first(args[0], new), *args[1:]), kwargs)
        if not kwargs:
            raise InputError(f"Hook {hook!r} takes nothing: the model calls that module without an input.")
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        new = function(first(kwargs[name]))
        return None if new is None else (args, kwargs | {name: with_first(kwargs[name], new)})

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        new = function(first(output))
        return None if new is None else with_first(output, new)

    if parse_hook(hook).side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def never_reached(hook: str) -> InputError:
    """What is said of a module that the model does not call."""
    return InputError(f"Hook {hook!r} is never reached: the model does not call that module when it reads text.")
