"""What was trained, in words: its architecture, whether it rebuilds what it reads, and at which hooks."""

from collections.abc import Sequence
from typing import Any

from tasks.hook_roles import HookRoles
from tasks.report.inputs import Inputs
from tasks.sae.architectures.names import find

Json = dict[str, Any]


def kind(inputs: Inputs) -> str:
    """The kind of SAE: sae, transcoder or crosscoder."""
    return str(inputs.summary.get("kind", "sae"))


def short(summary: Json) -> str:
    """SAE, transcoder or crosscoder."""
    return str(summary.get("kind", "SAE"))


def noun(inputs: Inputs) -> str:
    """Such as 'TopK sparse autoencoder' or 'BatchTopK skip transcoder'."""
    arch = str(inputs.sae.get("arch"))
    found = find(arch)
    names = {"sae": "sparse autoencoder" if found is None or found.is_sparse else "autoencoder"}
    name = names.get(kind(inputs), kind(inputs))
    return f"{found.title if found else arch} {'skip ' if inputs.sae.get('skip') else ''}{name}"


def places(roles: HookRoles, arrow: bool = False) -> str:
    """The hooks, such as 'from a to b' or 'at a, b and c'; with ``arrow`` as a heading, 'a → b' or 'a, b, c'."""
    inputs, outputs = roles.inputs, roles.outputs
    if inputs == outputs:
        return ", ".join(inputs) if arrow else f"at {joined(inputs)}"
    return f"{joined(inputs)} → {joined(outputs)}" if arrow else f"from {joined(inputs)} to {joined(outputs)}"


def joined(names: Sequence[str]) -> str:
    """'a', 'a and b' or 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def hook_rows(summary: Json) -> list[Json]:
    """What the summary says of each hook of a crosscoder; empty for all else."""
    found: list[Json] = summary.get("hooks") or []
    return found


def keeps_k(inputs: Inputs) -> bool:
    """Whether the number of active latents is the SAE's k, on each row or on average."""
    found = find(str(inputs.sae.get("arch")))
    return found is not None and found.keeps_k
