"""Where everything that a configuration makes will lie, known before anything runs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.artifacts import address
from tasks.config import PipelineConfig
from tasks.harvest.sources import source_identity
from tasks.lm.files import model_identity
from tasks.resolve import resolved
from tasks.store.objects import open_store
from tasks.text.corpus import corpus_identity

# Raised when a stage's code comes to give another result for the same settings.
_VERSIONS = {"tokens": 2, "shards": 1, "activations": 2, "saes": 1, "scores": 1, "reports": 1, "sweeps": 1}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Absolute URIs of the five stages' directories."""

    tokens: str | None
    """None where the activations are the user's own."""
    activations: str
    shards: str
    """The pool in which the harvests of one recipe, over any corpus, keep their shards; own activations keep theirs."""
    sae: str
    scores: str
    report: str


def addresses(config: PipelineConfig) -> Addresses:
    """The addresses of a configuration; reads the inputs' bytes (they are hashed) and nothing of the results.

    Raises:
        InputError: a corpus, model or source of activations is not there.
    """
    config = resolved(config)
    root = open_store(config.storage).uri

    def place(stage: str, settings: dict[str, Any], *inputs: str, name: str = config.name) -> str:
        return address(root, stage, name, {"version": _VERSIONS[stage], **settings}, inputs)

    tokens, activations, shards = _inputs(config, place)
    training = {"train": config.train.recipe(), "sae": asdict(config.sae), "hook": config.hook}
    sae = place("saes", training, activations)
    scores = place("scores", {"score": config.score.recipe()}, sae)
    report = place("reports", {"report": config.report.recipe(), "name": config.name}, scores)
    return Addresses(tokens, activations, shards, sae, scores, report)


def sweep_address(config: PipelineConfig, saes: Sequence[str]) -> str:
    """Where the comparison of a sweep's SAEs lies, which are given by their addresses."""
    root, settings = open_store(config.storage).uri, {"version": _VERSIONS["sweeps"], "score": config.score.recipe()}
    return address(root, "sweeps", config.name, settings, saes)


def _inputs(config: PipelineConfig, place: Callable[..., str]) -> tuple[str | None, str, str]:
    if config.activations.source is not None:
        cut = {"shard_tokens": config.harvest.shard_tokens, "row_group_rows": config.harvest.row_group_rows}
        own = {"activations": config.activations.recipe(), **cut}
        activations = place("activations", own, source_identity(config.activations))
        return None, activations, activations
    model = model_identity(config.model)
    tokens = place("tokens", {"text": config.text.recipe()}, corpus_identity(config.text), model)
    harvest: dict[str, Any] = {"harvest": config.harvest.recipe(), "model": config.model.recipe()}
    if len(config.harvest.hooks) > 1:  # earlier versions left out each hook's own outliers
        harvest["tokens"] = "the same at all hooks"
    # Named by the model alone: runs of other names and corpora are to find the shards that they share.
    shards = place("shards", harvest, model, name=_slug(config.model.label))
    return tokens, place("activations", harvest, tokens, model), shards


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", label.rpartition("/")[2].lower()).strip("-") or "model"
