"""The bodies of the calls by which a user uploads an SAE to Neuronpedia, ready to be sent as they are.

Rules: ``apps/webapp/app/api`` of https://github.com/hijohnnylin/neuronpedia (ebb8426, 2026-08).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.errors import InputError
from tasks.publish.dashboards import Dashboard, LatentContext
from tasks.publish.neuronpedia.places import Place

MOST_FEATURES = 128
MOST_BYTES = 4_000_000
"""Of a body: the site's host refuses larger ones before Neuronpedia sees them (Vercel: 4.5 MB)."""
MOST_LOGITS = 20
MOST_DESCRIPTION = 128

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallBatch:
    """One call's features."""

    latents: list[int]
    body: bytes
    """JSON."""


def mark(content: str) -> str:
    """What the description of a set ends with, by which a later push knows its own; ``content`` is a hash of its SAEs."""
    return f"sae {content[:12]}"


def source_set(place: Place, content: str, note: str) -> Json:
    """The body that makes a set."""
    end = mark(content)
    return {
        "name": place.source_set,
        "modelId": place.model,
        "description": f"{note[: MOST_DESCRIPTION - len(end) - 2]}; {end}",
    }


def new_model(place: Place, layers: int, hub: str | None) -> Json:
    """The body that makes a model, for one that Neuronpedia does not know."""
    about = {"id": place.model, "layers": layers, "displayName": (hub or place.model).rpartition("/")[2][:64]}
    return about | ({"url": f"https://huggingface.co/{hub}", "hfRepoId": hub} if hub else {})


class CallPacker:
    """Fills bodies of at most ``MOST_FEATURES`` latents and ``MOST_BYTES``, in the latents' order."""

    def __init__(self, place: Place) -> None:
        self._head = f'{{"modelId":{json.dumps(place.model)},"source":{json.dumps(place.source)},"features":['.encode()
        self._room = MOST_BYTES - len(self._head) - 2
        self._latents: list[int] = []
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, found: Dashboard) -> Iterator[CallBatch]:
        """Put a latent in; the body that it does not fit into any more, if there is one."""
        part = _within(found, self._room)
        if len(self._parts) == MOST_FEATURES or self._size + len(part) + 1 > self._room:
            yield from self.rest()
        self._latents.append(found.latent)
        self._parts.append(part)
        self._size += len(part) + 1

    def rest(self) -> Iterator[CallBatch]:
        """The body that is not full, if there is one."""
        if self._parts:
            yield CallBatch(self._latents, self._head + b",".join(self._parts) + b"]}")
        self._latents, self._parts, self._size = [], [], 0


def _within(found: Dashboard, room: int) -> bytes:
    """A latent's JSON; where it alone is too large for a call, without its last contexts."""
    contexts = found.contexts
    while contexts:
        data = json.dumps(_feature(found, contexts), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        if len(data) <= room:
            return data
        contexts = contexts[: len(contexts) // 2]
    raise InputError(f"A single context of latent {found.latent} is larger than the {MOST_BYTES:,} bytes of a call.")


def _feature(found: Dashboard, contexts: list[LatentContext]) -> Json:
    return {
        "index": found.latent,
        "density": found.density,
        "topLogits": [{"token": text, "value": value} for text, value in found.promoted[:MOST_LOGITS]],
        "bottomLogits": [{"token": text, "value": value} for text, value in found.suppressed[:MOST_LOGITS]],
        "explanations": [],
        "activations": [
            {
                "tokens": each.tokens,
                "values": each.values,
                "quantileMin": each.low,
                "quantileMax": each.high,
                "quantileFraction": each.share,
            }
            for each in contexts
        ],
    }
