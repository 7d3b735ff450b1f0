"""Which hooks an SAE reads and which it rebuilds: chosen by whoever trains it, then kept in its ``config.json``."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from tasks.errors import InputError

ENTRY = "hook_roles"
"""The key in ``config.json``."""

OWN = "source"
"""What stands for the hook of activations of the user's own."""

Kind = Literal["sae", "transcoder", "crosscoder"]


@dataclass(frozen=True, slots=True)
class HookRoles:
    """The hooks of one SAE."""

    inputs: tuple[str, ...]
    """Hooks whose activations, side by side, are encoded: one, or those of a crosscoder."""
    outputs: tuple[str, ...]
    """Hooks whose activations, side by side, are rebuilt: the same, or a transcoder's target."""

    @classmethod
    def of_sae(cls, *hooks: str) -> "HookRoles":
        """The roles where the same hooks are read and rebuilt."""
        return cls(hooks, hooks)

    @property
    def all(self) -> tuple[str, ...]:
        """Each hook once, in the order in which their features lie in a row: what is read, then what is only rebuilt."""
        return tuple(dict.fromkeys((*self.inputs, *self.outputs)))

    @property
    def first(self) -> str:
        """The hook that is read, or the first of several."""
        return self.inputs[0]

    @property
    def kind(self) -> Kind:
        """What such an SAE is called."""
        if self.inputs != self.outputs:
            return "transcoder"
        return "crosscoder" if len(self.inputs) > 1 else "sae"

    @override
    def __str__(self) -> str:
        """Their names, and an arrow where others are rebuilt than are read."""
        inputs, outputs = ", ".join(self.inputs), ", ".join(self.outputs)
        return inputs if inputs == outputs else f"{inputs} to {outputs}"

    def to_json(self) -> dict[str, list[str]]:
        """What ``config.json`` keeps."""
        return {"inputs": list(self.inputs), "outputs": list(self.outputs)}


def roles_among(there: Collection[str], settings: Mapping[str, Any], sae: str, activations: str) -> HookRoles:
    """The roles of an SAE's hooks in activations of the hooks ``there``.

    An SAE that saemill trained states them. Of an older one, and of an imported one, the names of its hooks are looked
    at. The names of another library are known to no activations: there, an SAE of one hook is one of the only hook.

    Args:
        there: the hooks of the activations.
        settings: what ``config.json`` of the SAE says.
        sae: URI of the SAE, for the message.
        activations: URI of the activations, for the message.

    Raises:
        InputError: the activations lack a hook, or it is not known which hooks the SAE reads.
    """
    stated = stated_roles(settings)
    named = stated or _named(settings)
    if named is not None and set(named.all) <= set(there):
        return named
    if stated is None and len(there) == 1 and (named is None or named.kind == "sae"):
        return HookRoles.of_sae(*there)
    found = "names no hooks" if named is None else f"is of {named}"
    raise InputError(
        f"The SAE at {sae} {found}, and {activations} has {', '.join(sorted(there))}. Say which of them it reads with "
        "--hook, and which it rebuilds, where that is another, with --target-hook."
    )


def stated_roles(settings: Mapping[str, Any]) -> HookRoles | None:
    """The roles that an SAE's ``config.json`` states; None of an imported SAE, and of one from before they were kept."""
    entry = settings.get(ENTRY)
    if not isinstance(entry, dict):
        return None
    inputs, outputs = _names(entry.get("inputs")), _names(entry.get("outputs"))
    return HookRoles(inputs, outputs) if inputs and outputs else None


def roles_in_scores(summary: Mapping[str, Any]) -> HookRoles | None:
    """The roles with which an SAE was scored, as ``summary.json`` says; None where it does not."""
    inputs = _names(summary.get("input_hooks")) or _names([summary.get("hook")])
    outputs = _names(summary.get("output_hooks")) or inputs
    return HookRoles(inputs, outputs) if inputs else None


def require_known(roles: HookRoles, there: Collection[str], activations: str) -> HookRoles:
    """The roles, whose hooks must be among those of the activations.

    Raises:
        InputError: one is not.
    """
    lacking = [hook for hook in roles.all if hook not in there]
    if lacking:
        raise InputError(f"{activations} has no hook {lacking[0]!r}; it has {', '.join(sorted(there))}.")
    return roles


def _named(settings: Mapping[str, Any]) -> HookRoles | None:
    """What SAEs say that were trained before roles were kept, and imported ones."""
    inputs = _names(settings.get("hooks")) or _names([settings.get("hook")])
    outputs = _names([settings.get("target_hook")]) or inputs
    return HookRoles(inputs, outputs) if inputs else None


def _names(value: object) -> tuple[str, ...]:
    """A list of texts; nothing where it is something else."""
    return tuple(value) if isinstance(value, list) and all(isinstance(name, str) for name in value) else ()
