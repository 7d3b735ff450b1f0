"""Forward passes over the same tokens that differ from some hooks on only: the layers before those are run once.

With the residual stream after layer 8 of 30 that saves 30% of each further pass' layers, after layer 20 two thirds.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.lm.names import parse_hook

_PROBE = 8  # tokens


def layers_before(model: nn.Module, hooks: Sequence[str]) -> list[nn.Module]:
    """The layers that a forward pass ends before or at all of the hooks, if they can be left out of a further pass.

    A list's order need not be that of the pass, so it is watched which of them end before a hook is come to. Whether they
    can be left out is tried on a few tokens: models whose later layers read from earlier ones by other ways than their
    output, such as shared keys and values, give other logits without them, or none at all. Of those, no layers are named.
    """
    found = [layer for layer in _earlier(model, hooks[0]) if _before_all(model, layer, hooks)]
    return _that_can_be_left_out(model, found, hooks) if found else []


@contextlib.contextmanager
def run_once(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While this is open, each layer computes in the first forward pass, and gives the same output in all that follow.

    So all passes must be over the same tokens, and nothing before the layers' end may be changed in between.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_with_forward(layer, _remembering(layer.forward)))
        yield


def _earlier(model: nn.Module, hook: str) -> list[nn.Module]:
    """Of each list of layers that the hook lies in, those that end before it or, being the hook's module, with it."""
    named = parse_hook(hook)
    parts = named.module.split(".")
    ends = len(parts) - 1 if named.side == "output" else None  # what is put in comes behind this module's forward pass
    lists = [(".".join(parts[:i]), int(part) + (i == ends)) for i, part in enumerate(parts) if part.isdigit()]
    parents = [(model.get_submodule(name), stop) for name, stop in lists]
    return [layer for parent, stop in parents if isinstance(parent, nn.ModuleList) for layer in list(parent)[:stop]]


def _before_all(model: nn.Module, layer: nn.Module, hooks: Sequence[str]) -> bool:
    return all(any(layer is other for other in _earlier(model, hook)) for hook in hooks)


@torch.inference_mode()
def _that_can_be_left_out(model: Any, layers: Sequence[nn.Module], hooks: Sequence[str]) -> list[nn.Module]:
    """Those without which a pass gives the bits of a whole one; all of them together, or none."""

    def logits() -> Tensor:
        found: Tensor = model(input_ids=token_ids, use_cache=False).logits
        return found

    try:
        token_ids = torch.arange(_PROBE, device=model.device)[None] % model.get_input_embeddings().num_embeddings
        with _watched(model, layers, hooks) as ends:
            whole = logits()
        if {len(of_layer) for of_layer in ends.values()} != {1}:  # one that several depths share has an output for each
            return []
        early = [layer for layer, [after_a_hook] in ends.items() if not after_a_hook]
        with run_once(early):
            logits()
            return early if torch.equal(logits(), whole) else []
    except (KeyError, AttributeError, TypeError, IndexError, ValueError, RuntimeError):
        return []


@contextlib.contextmanager
def _watched(model: nn.Module, layers: Sequence[nn.Module], hooks: Sequence[str]) -> Iterator[dict[nn.Module, list[bool]]]:
    """While this is open: for each time that a layer ends, whether another module's hook had been come to by then."""
    ends: dict[nn.Module, list[bool]] = {layer: [] for layer in layers}
    met: set[nn.Module] = set()

    def meet(module: nn.Module, *_: Any) -> None:
        met.add(module)

    def end(layer: nn.Module, *_: Any) -> None:
        ends[layer].append(bool(met - {layer}))

    with contextlib.ExitStack() as stack:
        for hook in map(parse_hook, hooks):
            module = model.get_submodule(hook.module)
            at_input = hook.side == "input"
            watch = module.register_forward_pre_hook if at_input else module.register_forward_hook
            stack.callback(watch(meet).remove)
        for layer in layers:
            stack.callback(layer.register_forward_hook(end).remove)
        yield ends


def _remembering(forward: Callable[..., Any]) -> Callable[..., Any]:
    outputs: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not outputs:
            outputs.append(_copy(forward(*args, **kwargs)))
        return _copy(outputs[0])  # what comes after may work in place

    return call


def _copy(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    return tuple(_copy(part) for part in output) if type(output) is tuple else output


@contextlib.contextmanager
def _with_forward(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = layer.__dict__.get("forward")
    layer.__dict__["forward"] = forward
    try:
        yield
    finally:
        del layer.__dict__["forward"]
        if before is not None:
            layer.__dict__["forward"] = before
