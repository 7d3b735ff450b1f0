"""What a model does as far as some hooks, operation by operation: told by its skeleton, at no cost in memory."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary
from typing_extensions import override

from tasks.lm.listing import in_two_texts
from tasks.lm.watch import capture

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)

Operation = tuple[Any, ...]
"""Its name, its arguments and what it gives: a weight by name, shape and dtype, other tensors by when they were met."""


def operations(skeleton: nn.Module, hooks: Sequence[str]) -> tuple[list[Operation], list[Operation]]:
    """All operations of a forward pass that ends at the last of the hooks, for texts of two sizes.

    Two models of which these are equal compute the same there, to the bit, from weights that are equal by name.

    Raises:
        InputError: as ``capture``, or the model cannot read text.
    """
    return in_two_texts(skeleton, functools.partial(_recorded, hooks=hooks))


def _recorded(model: nn.Module, token_ids: Tensor, hooks: Sequence[str]) -> list[Operation]:
    recorder = _Recorder(model)
    with recorder:
        capture(model, hooks, token_ids)
    return recorder.operations


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation while it is open."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._clock = itertools.count()
        # By identity, and weakly: a number must not pass on to a tensor that comes to lie at the same address.
        self._names = WeakTensorKeyDictionary()
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            self._names[tensor] = (name, tuple(tensor.shape), str(tensor.dtype))

    @classmethod
    @override
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch._dynamo is imported, which takes seconds

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = self._told(args), self._told(kwargs or {})
        found = _zero(args[0]) if _asks_a_value(func, args) else func(*args, **(kwargs or {}))
        self.operations.append((str(func), *asked, self._told(found)))
        return found

    def _told(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value not in self._names:
                self._names[value] = next(self._clock)
            return self._names[value]
        if isinstance(value, (tuple, list)):
            return tuple(map(self._told, value))
        if isinstance(value, dict):
            return tuple((name, self._told(part)) for name, part in sorted(value.items()))
        return repr(value) if isinstance(value, _PLAIN) else type(value).__name__


def _asks_a_value(func: Any, args: Any) -> bool:
    """Masks that are all true are left out: to ask for that would end a pass on the meta device, which has no values."""
    return func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta


def _zero(like: Tensor) -> bool | int | float:
    """The same answer for every model that is asked about."""
    if like.dtype == torch.bool:
        return False
    return 0.0 if like.is_floating_point() else 0
