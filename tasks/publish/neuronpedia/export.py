"""Neuronpedia's export: folders that its importer reads into tables, one JSON object a line.

The importer takes the columns of a file from its first line, so all lines of a file have equal keys; absent values are
null. It inserts and never updates: a retrained SAE needs a set of its own. Files hold few latents, as one file is one
insert of at most 200 MB. Columns: ``prisma/schema.prisma`` of https://github.com/hijohnnylin/neuronpedia (ebb8426, 2026-08).
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.publish.dashboards import Dashboard, LatentContext, number
from tasks.publish.neuronpedia.places import Place
from tasks.publish.scored import ScoredSae, hub_id

MOST_FEATURES = 128
_BLOCK = re.compile(r"(?:.*\.)?\d+(?::output)?")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What all rows of an export share."""

    place: Place
    release: str
    description: str
    creator: str
    created: str
    """When the folder was begun, ISO 8601."""
    layers: int
    content: str
    """SHA-256 of the SAE."""
    saelens: Json | None
    """``cfg.json`` of SAELens, where it can hold the SAE."""
    hub: str | None
    """The repository that holds the weights."""
    folder: str | None
    """And where in it."""


def folder(place: Place) -> str:
    """Below which all files of one SAE lie."""
    return f"neuronpedia/export/{place.model}/{place.source}"


def tables(found: ScoredSae, facts: ExportFacts) -> Iterator[tuple[str, bytes]]:
    """The four tables of a line each."""
    rows = {
        "release": _release(facts),
        "model": _model(found, facts),
        "sourceset": _set(facts),
        "source": _source(found, facts),
    }
    for name, row in rows.items():
        yield f"{folder(facts.place)}/{name}.jsonl", _lines([row])


def batch(n: int, found: Sequence[Dashboard], facts: ExportFacts, hook: str | None) -> Iterator[tuple[str, bytes]]:
    """Features and activations of at most ``MOST_FEATURES`` latents, the n-th files of theirs."""
    features = [_feature(each, facts, hook) for each in found]
    activations = [_activation(each, i, context, facts) for each in found for i, context in enumerate(each.contexts)]
    for name, rows in (("features", features), ("activations", activations)):
        # Without a time in the header, equal rows are equal bytes.
        yield f"{folder(facts.place)}/{name}/batch-{n}.jsonl.gz", gzip.compress(_lines(rows), 6, mtime=0)


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    dumped = (json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in dumped).encode()


def _release(facts: ExportFacts) -> Json:
    return {
        "name": facts.release,
        "description": facts.description,
        "descriptionShort": None,
        "creatorName": facts.creator,
        "creatorNameShort": None,
        "creatorId": facts.creator,
        "creatorEmail": None,
        "urls": [f"https://huggingface.co/{facts.hub}"] if facts.hub else [],
        "visibility": "UNLISTED",
        "isNewUi": False,
        "featured": False,
        "defaultSourceSetName": facts.place.source_set,
        "defaultSourceId": facts.place.source,
        "defaultUmapSourceIds": [],
        "createdAt": facts.created,
    }


def _model(found: ScoredSae, facts: ExportFacts) -> Json:
    name = found.sae.belongs.model or facts.place.model
    hub = hub_id(name)
    return {
        "id": facts.place.model,
        "displayName": name.rpartition("/")[2],
        "displayNameShort": name.rpartition("/")[2],
        "creatorId": facts.creator,
        "tlensId": None,
        "dimension": None,
        "layers": facts.layers,
        "neuronsPerLayer": 0,
        "owner": hub.partition("/")[0] if hub else facts.creator,
        "instruct": "instruct" in name.lower(),
        "thinking": False,
        "visibility": "UNLISTED",
        "inferenceEnabled": False,
        "website": f"https://huggingface.co/{hub}" if hub else None,
        "createdAt": facts.created,
        "updatedAt": facts.created,
    }


def _set(facts: ExportFacts) -> Json:
    return {
        "modelId": facts.place.model,
        "name": facts.place.source_set,
        "description": facts.description,
        "type": "SAE",
        "creatorName": facts.creator,
        "creatorId": facts.creator,
        "urls": [f"https://huggingface.co/{facts.hub}"] if facts.hub else [],
        "releaseName": facts.release,
        "visibility": "UNLISTED",
        "hasDashboards": True,
        "allowInferenceSearch": False,
        "defaultRange": 1,
        "defaultShowBreaks": True,
        "showDfa": False,
        "showCorrelated": False,
        "showHeadAttribution": False,
        "showUmap": False,
        "graphEnabled": False,
        "hasGraphs": False,
        "createdAt": facts.created,
    }


def _source(found: ScoredSae, facts: ExportFacts) -> Json:
    return {
        "id": facts.place.source,
        "modelId": facts.place.model,
        "setName": facts.place.source_set,
        "creatorId": facts.creator,
        "hasDashboards": True,
        "inferenceEnabled": False,
        "visibility": "UNLISTED",
        "saelensConfig": facts.saelens,
        "saelensRelease": None,
        "saelensSaeId": None,
        "hfRepoId": facts.hub,
        "hfFolderId": facts.folder,
        "num_prompts": None,
        "num_tokens_in_prompt": None,
        "dataset": None,
        "notes": f"scored on {found.summary['tokens']:,} held-out tokens; sae {found.content[:12]}",
        "cosSimMatchModelId": None,
        "cosSimMatchSourceId": None,
        "createdAt": facts.created,
    }


def _feature(each: Dashboard, facts: ExportFacts, hook: str | None) -> Json:
    step = each.largest / max(1, len(each.histogram))
    return {
        "modelId": facts.place.model,
        "layer": facts.place.source,
        "index": str(each.latent),
        "sourceSetName": facts.place.source_set,
        "creatorId": facts.creator,
        "createdAt": facts.created,
        "maxActApprox": each.largest,
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "hookName": hook,
        "topkCosSimIndices": [latent for latent, _ in each.neighbours],
        "topkCosSimValues": [cosine for _, cosine in each.neighbours],
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_pearson": [],
        "correlated_neurons_l1": [],
        "correlated_features_indices": [],
        "correlated_features_pearson": [],
        "correlated_features_l1": [],
        "pos_str": [text for text, _ in each.promoted],
        "pos_values": [value for _, value in each.promoted],
        "neg_str": [text for text, _ in each.suppressed],
        "neg_values": [value for _, value in each.suppressed],
        "frac_nonzero": each.density,
        "freq_hist_data_bar_heights": each.histogram,
        "freq_hist_data_bar_values": [number((n + 0.5) * step) for n in range(len(each.histogram))],
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "decoder_weights_dist": [],
    }


def _activation(each: Dashboard, i: int, context: LatentContext, facts: ExportFacts) -> Json:
    values = context.values
    highest = max(range(len(values)), key=values.__getitem__)
    named = f"{facts.place.path} {each.latent} {i} {facts.content}"
    return {
        "id": f"c{hashlib.sha256(named.encode()).hexdigest()[:24]}",
        "tokens": context.tokens,
        "values": values,
        "modelId": facts.place.model,
        "layer": facts.place.source,
        "index": str(each.latent),
        "creatorId": facts.creator,
        "dataIndex": None,
        "dataSource": None,
        "maxValue": values[highest],
        "maxValueTokenIndex": highest,
        "minValue": min(values),
        "lossValues": [],
        "logitContributions": None,
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "binMin": context.low,
        "binMax": context.high,
        "binContains": context.share,
        "qualifyingTokenIndex": context.peak,
        "createdAt": facts.created,
    }


def hook_name(hook: str | None, layer: int) -> str | None:
    """The hook in TransformerLens' words, where it is the output of a whole block; None elsewhere."""
    return f"blocks.{layer}.hook_resid_post" if hook is not None and _BLOCK.fullmatch(hook) else None
