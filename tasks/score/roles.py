"""What an SAE reads and what it rebuilds, as columns of the rows on which it is scored."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from tasks.activations.multi_hook import AnySplit, even_scale
from tasks.hook_roles import HookRoles, Kind


def _whole() -> slice:
    return slice(None)


@dataclass(frozen=True, slots=True)
class Roles:
    """An SAE's hooks, and where their features lie in rows of all of them; by default those of an SAE of one hook."""

    kind: Kind = "sae"
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    reads: slice = field(default_factory=_whole)
    """Columns that are encoded."""
    rebuilds: slice = field(default_factory=_whole)
    """Columns that are rebuilt."""
    parts: tuple[slice, ...] = field(default_factory=lambda: (slice(None),))
    """Columns of each hook among those that are rebuilt."""
    scale: Float64[np.ndarray, "d_out"] | None = None
    """What features are multiplied by so that all hooks weigh alike, its geometric mean being 1; None: nothing."""


def roles_of(hooks: HookRoles, training: AnySplit) -> Roles:
    """The roles of the hooks in rows of ``training``, whose statistics say how much each hook varies.

    A crosscoder's features are scaled as in training, each hook's by the root of its width over its variance.
    """
    inputs, outputs = hooks.inputs, hooks.outputs
    if hooks.kind == "sae":
        return Roles(inputs=inputs, outputs=outputs)
    widths = {hook: part.d_in for hook, part in zip(hooks.all, training.parts, strict=True)}
    d_in, d_out = (sum(widths[hook] for hook in names) for names in (inputs, outputs))
    total = sum(widths.values())
    ends = np.cumsum([0, *(widths[hook] for hook in outputs)]).tolist()
    return Roles(
        kind=hooks.kind,
        inputs=inputs,
        outputs=outputs,
        reads=slice(0, d_in),
        rebuilds=slice(total - d_out, total),
        parts=tuple(slice(a, b) for a, b in pairwise(ends)),
        scale=even_scale(training) if len(outputs) > 1 else None,
    )
