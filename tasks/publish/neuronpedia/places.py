"""Where SAEs come to be on Neuronpedia: the model's id, a set's name, and of each SAE the source ``{layer}-{set}``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import InputError
from tasks.publish.scored import ScoredSae

MOST_LAYERS = 127
_MODEL = re.compile(r"[a-z](?:[a-z0-9]|[.-](?![.-]))*[a-z0-9]")
_SET = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MOST_NAME = 32


@dataclass(frozen=True, slots=True)
class Place:
    """Of one SAE."""

    model: str
    source_set: str
    layer: int

    @property
    def source(self) -> str:
        """What Neuronpedia calls an SAE of a set."""
        return f"{self.layer}-{self.source_set}"

    @property
    def path(self) -> str:
        """As in the pages' addresses, and in SAELens' registry."""
        return f"{self.model}/{self.source}"


def places(found: Sequence[ScoredSae], name: str, model: str | None = None) -> list[Place]:
    """A place for each SAE, of the model that its name stands for, or of ``model``.

    SAEs of different layers share a set; several of one layer have a set each.

    Raises:
        InputError: an SAE has no layer, or no model, or reads several.
    """
    layers = [_layer(each) for each in found]
    own = len(set(layers)) < len(layers)
    return [
        Place(_model(each, model), _set_name(f"{name}-{each.id}" if own else name), layer)
        for each, layer in zip(found, layers, strict=True)
    ]


def _layer(found: ScoredSae) -> int:
    layer = found.layer
    if layer is None or layer >= MOST_LAYERS:
        hooks = ", ".join(found.sae.belongs.hooks) or "no hook"
        raise InputError(
            f"Neuronpedia keeps SAEs by the layer of the one hook that they read, below {MOST_LAYERS}, and this one names "
            f"{hooks}. Leave neuronpedia out of --to."
        )
    return layer


def _model(found: ScoredSae, stated: str | None) -> str:
    model = stated or found.sae.belongs.model
    if model is None:
        raise InputError("Neuronpedia keeps SAEs by their model, and this one names none; say it with --model ORG/NAME.")
    wanted = re.sub(r"[^a-z0-9.-]+", "-", model.rpartition("/")[2].lower())
    named = re.sub(r"([.-])[.-]+", r"\1", wanted)[:_MOST_NAME].strip("-.")
    if not _MODEL.fullmatch(named):
        raise InputError(
            f"Of the model's name {model!r} no id can be made that Neuronpedia takes: 2 to 32 lower-case letters, digits, "
            "'-' and '.', a letter first. Say another with --neuronpedia-model."
        )
    return named


def _set_name(name: str) -> str:
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not _SET.fullmatch(found) or found == "neurons":
        raise InputError(
            f"Of the name {name!r} no name of a set can be made that Neuronpedia takes; say another with --name."
        )
    return found
