"""What was trained, in words: its architecture, whether it rebuilds what it reads, and at which hooks."""

from collections.abc import Sequence
from typing import Any

from tasks.hook_roles import HookRoles
from tasks.report.inputs import Inputs

STYLES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka BatchTopK",
    "l1": "L1",
    "l1_2023": "L1 (2023)",
    "p_anneal": "p-annealed",
    "gated": "Gated",
    "jumprelu": "JumpReLU",
    "jumprelu_l0": "JumpReLU (target L0)",
    "jumprelu_tanh": "JumpReLU (tanh)",
    "dense": "dense",
}

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
    names = {"sae": "autoencoder" if arch == "dense" else "sparse autoencoder"}
    name = names.get(kind(inputs), kind(inputs))
    return f"{STYLES.get(arch, arch)} {'skip ' if inputs.sae.get('skip') else ''}{name}"


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
