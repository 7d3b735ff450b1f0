"""``saemill publish SAE... --out DIR``: everything that is to be published, built into one folder; nothing leaves here.

``publish.json`` comes first and says what is built there, so the same command finishes a folder that a kill left unfinished,
and another is refused. All other files depend on nothing but their inputs and that. ``manifest.json`` comes last.
"""

import gzip
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from tasks.errors import InputError
from tasks.interchange.formats import FormatName, open_format
from tasks.progress import Listener, Progress
from tasks.publish import card, hub, registry_entry
from tasks.publish.checked import require_whole
from tasks.publish.dashboards import dashboards
from tasks.publish.neuronpedia import calls, export
from tasks.publish.neuronpedia.model_layers import model_layers
from tasks.publish.neuronpedia.places import Place, places
from tasks.publish.neuronpedia.push import INDEX
from tasks.publish.scored import ScoredSae, hub_id, read_scored
from tasks.storage.artifacts import parse_json, read_json, read_manifest, to_json, write_manifest
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store

Target = Literal["hf", "neuronpedia", "saelens-yaml", "circuit-tracer"]
TARGETS: tuple[Target, ...] = ("hf", "neuronpedia", "saelens-yaml", "circuit-tracer")
REQUEST = "publish.json"
FORMAT_VERSION = 1

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOrder:
    """What is to be built."""

    saes: Sequence[str]
    scores: Sequence[str]
    to: Sequence[Target]
    out: str
    name: str | None = None
    """Of the release, or ORG/NAME of the hub repository; None: that of the first SAE."""
    license: str | None = None
    """Of the weights, as the hub calls it, such as apache-2.0."""
    model: str | None = None
    """The model's id on the hub, where the SAEs call it otherwise."""
    layers: int | None = None
    """Of the model, which Neuronpedia asks for."""
    neuronpedia_model: str | None = None
    """The model's id there, where it is not the last part of its name."""


@dataclass(frozen=True, slots=True)
class BuiltFolder:
    """What lies there now."""

    uri: str
    files: int
    bytes: int
    latents: dict[str, int]
    """By its place on Neuronpedia, the latents of each SAE there."""
    refused: tuple[str, ...]
    """Which libraries cannot hold an SAE, and why."""
    earlier: bool
    """Whether it was built before, and nothing was written now."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """An order whose inputs are read and fit one another."""

    order: PublishOrder
    found: tuple[ScoredSae, ...]
    name: str
    repo: str | None
    told: list[hub.HubReader]
    places: list[Place]
    layers: int
    """Of the model, where anybody asks."""
    created: str
    listener: Listener
    latents: dict[str, int] = field(default_factory=dict)


def build(order: PublishOrder, listener: Listener) -> BuiltFolder:
    """Build the folder, or find it built.

    Raises:
        InputError: something that was given does not fit, or the folder holds something else.
        ArtifactError: an input, or the folder, is damaged.
    """
    found, store = read_scored(order.saes, order.scores, order.model), open_store(order.out)
    name, repo = _names(order, found)
    _require_one_model(found)
    told = hub.readers(found, _formats(order, found)) if {"hf", "circuit-tracer", "saelens-yaml"} & set(order.to) else []
    if "circuit-tracer" in order.to:
        hub.require_circuit_tracer(told)
    placed = places(found, name, order.neuronpedia_model) if "neuronpedia" in order.to else []
    _require_possible(order, told, repo)
    earlier = read_manifest(store.uri) is not None
    layers = (order.layers or model_layers(order.saes[0])) if placed and not earlier else 0
    _require_layers(placed, layers)
    created = _claimed(store, _request(order, found, name))
    plan = _Plan(order, found, name, repo, told, placed, layers, created, listener)
    if not earlier:
        _write(store, plan)
    manifest = require_whole(store.uri)
    return BuiltFolder(
        uri=store.uri,
        files=len(manifest["objects"]),
        bytes=sum(each["size"] for each in manifest["objects"].values()),
        latents=manifest["latents"],
        refused=tuple(f"{each.format}: {each.refused}" for each in told if each.refused),
        earlier=earlier,
    )


def _require_layers(placed: Sequence[Place], layers: int) -> None:
    """Refuse fewer layers than an SAE reads at: a set on Neuronpedia is made for so many, and its name is used up then.

    Raises:
        InputError: there are too few.
    """
    highest = max((place.layer for place in placed), default=-1)
    if layers and highest >= layers:
        raise InputError(f"The model has {layers} layers (--layers), but an SAE reads layer {highest}, from 0 on.")


def _names(order: PublishOrder, found: Sequence[ScoredSae]) -> tuple[str, str | None]:
    """The release's name and the hub repository's id."""
    first = open_store(order.saes[0]).uri.rpartition("/")[2]
    given = order.name or (first[:-13] if first[-13:-12] == "-" else first)
    return given.rpartition("/")[2], hub_id(given)


def _require_one_model(found: Sequence[ScoredSae]) -> None:
    models = sorted({str(each.sae.belongs.model) for each in found})
    if len(models) > 1:
        raise InputError(f"The SAEs are of different models, {' and '.join(models)}; publish those of one model at a time.")


def _formats(order: PublishOrder, found: Sequence[ScoredSae]) -> tuple[FormatName, ...]:
    transcoders = any(each.sae.is_transcoder for each in found)
    wanted: dict[FormatName, bool] = {
        "saelens": bool({"hf", "saelens-yaml"} & set(order.to)),
        "sparsify": "hf" in order.to,
        "circuit-tracer": "circuit-tracer" in order.to or ("hf" in order.to and transcoders),
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def _require_possible(order: PublishOrder, told: Sequence[hub.HubReader], repo: str | None) -> None:
    if "saelens-yaml" not in order.to:
        return
    if repo is None:
        raise InputError("--to saelens-yaml names the hub repository that has the weights: say it with --name ORG/NAME.")
    refused = [each.refused for each in told if each.format == "saelens"]
    if all(refused):
        raise InputError(f"--to saelens-yaml: {refused[0]}")


def _request(order: PublishOrder, found: Sequence[ScoredSae], name: str) -> Json:
    """What decides the content, without where anything lies on this machine."""
    return {
        "format_version": FORMAT_VERSION,
        "saes": {each.id: each.content for each in found},
        "scores": {each.id: each.scored.get("objects") for each in found},
        "to": sorted(set(order.to)),
        "name": order.name or name,
        "license": order.license,
        "model": order.model,
        "layers": order.layers,
        "neuronpedia_model": order.neuronpedia_model,
    }


def _claimed(store: ObjectStore, request: Json) -> str:
    """Claim the folder, or find it claimed for the same; when that was first done, which pages show."""
    stated = read_json(store.uri, REQUEST)
    if stated is None:
        there = next(iter(store.list()), None)
        if there is not None:
            raise InputError(f"--out is {store.uri}, which holds other things ({there.key}); name a folder that is empty.")
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        store.put_if_absent(REQUEST, to_json({**request, "created": now}))
        stated = read_json(store.uri, REQUEST) or {}
    other = next((name for name in request if stated.get(name) != request[name]), None)
    if other is not None:
        raise InputError(
            f"--out is {store.uri}, which holds something else that is published (another {other}); name another folder, or "
            "delete that one."
        )
    return str(stated.get("created"))


def _write(store: ObjectStore, plan: _Plan) -> None:
    objects: Json = {}
    for key, data in _files(plan):
        store.put(key, data)
        objects[key] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"format_version": FORMAT_VERSION, "stage": "publish", "latents": plan.latents, "objects": objects}
    write_manifest(store.uri, manifest)


def _files(plan: _Plan) -> Iterator[tuple[str, bytes]]:
    to = set(plan.order.to)
    if "hf" in to:
        yield from hub.own_files(plan.found)
    if to & {"hf", "circuit-tracer"}:
        yield from hub.reader_files(plan.found, plan.told)
    if "neuronpedia" in to:
        yield from _neuronpedia(plan)
    if "saelens-yaml" in to:
        pages = {each.id: place.path for each, place in zip(plan.found, plan.places, strict=False)}
        folders = {each.sae: each.folder for each in plan.told if each.format == "saelens" and each.refused is None}
        yield registry_entry.FILE, registry_entry.entry(plan.found, plan.name, plan.repo or "", folders, pages)
    if "hf" in to:  # the card last, so that it never speaks of what is not there
        facts = card.CardFacts(plan.name, plan.repo, plan.order.license, f"saemill {version('saemill')}")
        yield f"{hub.FOLDER}/{card.FILE}", card.card(plan.found, plan.told, facts)


def _neuronpedia(plan: _Plan) -> Iterator[tuple[str, bytes]]:
    """The export's files and the calls' bodies of each SAE."""
    sets: dict[str, Json] = {}
    marks = _marks(plan)
    for found, place in zip(plan.found, plan.places, strict=True):
        yield from export.tables(found, _facts(plan, found, place))
        entry = sets.setdefault(place.source_set, _set_entry(plan, found, place, marks[place.source_set]))
        entry["pages"].append(place.path)
        for key, data, latents in _latent_files(plan, found, place):
            if latents:
                entry["batches"].append({"file": key, "latents": latents})
            yield key, data
    yield INDEX, to_json({"sets": list(sets.values())})


def _latent_files(plan: _Plan, found: ScoredSae, place: Place) -> Iterator[tuple[str, bytes, int]]:
    """In one pass over the stored scores, some latents at a time: files, and of calls how many latents they bring."""
    facts, packer = _facts(plan, found, place), calls.CallPacker(place)
    hook = export.hook_name(found.sae.belongs.hook, place.layer)
    shown, numbers = dashboards(found), itertools.count()
    plan.latents[place.path] = 0

    def named(batches: Iterable[calls.CallBatch]) -> Iterator[tuple[str, bytes, int]]:
        for each in batches:
            key = f"neuronpedia/calls/{place.source}/batch-{next(numbers):05d}.json.gz"
            yield key, gzip.compress(each.body, 6, mtime=0), len(each.latents)

    for n in itertools.count():
        part = list(itertools.islice(shown, export.MOST_FEATURES))
        if not part:
            break
        yield from ((key, data, 0) for key, data in export.batch(n, part, facts, hook))
        for each in part:
            yield from named(packer.add(each))
        plan.latents[place.path] += len(part)
        plan.listener(Progress("publish", part[-1].latent + 1, found.sae.d_sae, "latents"))
    yield from named(packer.rest())
    plan.listener(Progress("publish", found.sae.d_sae, found.sae.d_sae, "latents"))


def _marks(plan: _Plan) -> dict[str, str]:
    """Of each set a hash of all its SAEs, by which a push knows its own set."""
    held: dict[str, list[str]] = {}
    for found, place in zip(plan.found, plan.places, strict=True):
        held.setdefault(place.source_set, []).append(f"{place.source} {found.content}")
    return {name: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() for name, lines in held.items()}


def _set_entry(plan: _Plan, found: ScoredSae, place: Place, mark: str) -> Json:
    return {
        "model": calls.new_model(place, plan.layers, hub_id(found.sae.belongs.model)),
        "body": calls.source_set(place, mark, _described(plan, found)),
        "mark": calls.mark(mark),
        "pages": [],
        "batches": [],
    }


def _described(plan: _Plan, found: ScoredSae) -> str:
    return f"{plan.name}: {found.sae.config.arch}, {found.sae.d_sae:,} latents"


def _facts(plan: _Plan, found: ScoredSae, place: Place) -> export.ExportFacts:
    reader = next((each for each in plan.told if each.format == "saelens" and each.sae == found.id), None)
    folder = reader.folder if reader is not None and reader.refused is None else None
    return export.ExportFacts(
        place=place,
        release=plan.name,
        description=_described(plan, found),
        creator=plan.repo.partition("/")[0] if plan.repo else "saemill",
        created=plan.created,
        layers=plan.layers,
        content=found.content,
        saelens=_saelens(found),
        hub=plan.repo,
        folder=folder if plan.repo else None,
    )


def _saelens(found: ScoredSae) -> Json | None:
    try:
        settings: Json = parse_json(open_format("saelens").files(found.sae)["cfg.json"])
    except InputError:
        return None
    return settings
