"""What the commands for registries do, and what they say: each as plain values for ``--json``, and as lines."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flows.preflight import check_storage
from flows.references import sae_at, storage_of
from flows.registered import now
from tasks.registry.content import has_files
from tasks.registry.moving import considered, moves_of, position, promote, rollback
from tasks.registry.names import CHAMPION
from tasks.registry.reference import referred
from tasks.registry.registering import register
from tasks.registry.registry import Registry, registry_names, require_registry
from tasks.registry.tagging import tag, tags_of
from tasks.registry.verdicts import verdict_of
from tasks.registry.versions import SAEVersion

Json = dict[str, Any]
_READERS = 16
_SHOWN = ("fvu", "l0", "dead_fraction", "ce_recovered")


def listed(storage: str | None, name: str | None) -> list[Json]:
    """The registries of a storage, or one of them, each with its aliases and versions.

    Raises:
        InputError: there is none of that name.
        ArtifactError: a record is damaged.
    """
    root = storage_of(storage)
    if name is not None:
        return [_registry(require_registry(Registry.at(root, name)))]
    return [_registry(Registry.at(root, found)) for found in registry_names(root)]


def described_list(found: Sequence[Json]) -> str:
    """A line for each version."""
    if not found:
        return "no registries"
    return "\n".join(_version_line(registry, version) for registry in found for version in registry["versions"])


def shown(storage: str | None, name: str) -> Json:
    """All that is known of a version; of a name alone, of its champion or else of its newest version.

    Raises:
        InputError: there is no such version.
        ArtifactError: a record is damaged.
    """
    root = storage_of(storage)
    if "@" in name:
        registry, version = referred(name, root)
    else:
        registry = require_registry(Registry.at(root, name))
        champion = position(registry, CHAMPION)
        version = registry.version(registry.versions.last() if champion is None else champion.move.version)
    verdict = verdict_of(registry.root, registry.name, version.version)
    told = _registry(registry)
    (entry,) = (entry for entry in told["versions"] if entry["version"] == version.version)
    aliases = sorted(alias for alias, number in told["aliases"].items() if number == version.version)
    return {
        "name": registry.name,
        **entry,
        "aliases": aliases,
        "verdict": None if verdict is None else verdict.model_dump(mode="json"),
    }


def described_version(found: Json) -> str:
    """Its facts, a line each."""
    parents = {f"made of {name}": value for name, value in found["parents"].items()}
    verdict = found["verdict"]
    told = None if verdict is None else f"{verdict['verdict']} against version {verdict['against']}, {verdict['when']}"
    rows = {
        "version": f"{found['name']}@{found['version']}",
        "aliases": ", ".join(found["aliases"]),
        "tags": ", ".join(found["tags"]),
        "SAE": f"{found['uri']}{'' if found['present'] else ' (removed)'}",
        "content": found["content"],
        "settings": found["config"],
        **parents,
        **{name: f"{value:.4g}" for name, value in found["metrics"].items()},
        "verdict": told,
        "registered": f"{found['when']} by {found['by']}",
    }
    return "\n".join(f"{name:<24} {'-' if value in (None, '') else value}" for name, value in rows.items())


def moved(storage: str | None, name: str) -> list[Json]:
    """Every move of every alias, the oldest first.

    Raises:
        InputError: there is no such registry.
        ArtifactError: a record is damaged.
    """
    registry = require_registry(Registry.at(storage_of(storage), name))
    return [move.model_dump(mode="json", exclude={"move", "below"}) for move in moves_of(registry)]


def described_history(found: Sequence[Json]) -> str:
    """A line for each move."""
    return "\n".join(_move_line(move) for move in found) or "no moves"


def added(
    storage: str | None, name: str, sae: str, scores: str | None, started_from: int | None, tags: Sequence[str]
) -> Json:
    """Register an SAE by hand.

    Raises:
        InputError: there is no finished SAE, or the scores are of another.
        ArtifactError: it is damaged.
    """
    root = _writable(storage)
    registry = Registry.at(root, name)
    if started_from is not None:
        registry.version(started_from)
    version, is_new = register(
        registry, sae_at(sae, root), now(), scores=scores, started_from=started_from, tags=tuple(dict.fromkeys(tags))
    )
    return {"name": name, **_entry(registry, version, version.tags), "new": is_new}


def described_addition(found: Json) -> str:
    """The version, and whether it was there before."""
    return f"{found['name']}@{found['version']}: {found['uri']}{'' if found['new'] else ' (there already)'}"


def tagged(storage: str | None, reference: str, name: str, *, present: bool) -> Json:
    """Give a version a tag, or take it away; what tags it has then.

    Raises:
        InputError: there is no such version, or nothing can have that name.
        ArtifactError: a record is damaged.
    """
    registry, version = referred(reference, _writable(storage))
    changed = tag(registry, version.version, name, now(), present=present)
    tags = sorted(tags_of(registry).get(version.version, ()))
    return {"version": f"{registry.name}@{version.version}", "tags": tags, "changed": changed}


def promoted(storage: str | None, reference: str, why: str, *, force: bool, dry_run: bool) -> Json:
    """Make a version the champion, or say what that would do.

    Raises:
        InputError: there is no such version, it was rejected, its SAE is gone, or another promotion came first.
        ArtifactError: its files are not those that were registered.
    """
    registry, version = referred(reference, _writable(storage))
    found = considered(registry, version.version, force=force)
    if not dry_run:
        promote(registry, found, now(), why, force=force)
    verdict = None if found.verdict is None else found.verdict.verdict
    return {
        "name": registry.name,
        "champion": version.version,
        "sae": registry.uri_of(version),
        "before": None if found.before is None else found.before.move.version,
        "verdict": verdict,
        "forced": force and verdict == "REJECT",
        "changed": not found.is_champion,
        "dry_run": dry_run,
    }


def described_promotion(found: Json) -> str:
    """What was done, or would be."""
    called = f"{found['name']}@{found['champion']}"
    if not found["changed"]:
        return f"{called} is the champion already"
    before = (
        "no version was" if found["before"] is None else f"version {found['before']} was; saemill rollback goes back to it"
    )
    said = f"verdict {found['verdict'] or 'none'}{', forced' if found['forced'] else ''}"
    return f"{called} {'would be' if found['dry_run'] else 'is'} the champion ({said}); before, {before}"


def rolled_back(storage: str | None, name: str, why: str, to: int | None) -> Json:
    """Make the champion before this one champion again.

    Raises:
        InputError: there was none, its SAE is gone, or another promotion or rollback came first.
        ArtifactError: a record is damaged.
    """
    registry = require_registry(Registry.at(_writable(storage), name))
    before = position(registry, CHAMPION)
    move = rollback(registry, now(), why, to)
    changed = before is None or before.move.move != move.move
    return {
        "name": registry.name,
        "champion": move.version,
        "sae": registry.uri_of(registry.version(move.version)),
        "before": move.previous if changed else move.version,
        "next": move.rollback_to,
        "changed": changed,
    }


def described_rollback(found: Json) -> str:
    """What is champion now, and where another rollback would lead."""
    called, further = f"{found['name']}@{found['champion']}", found["next"]
    on = "there is no promotion further back" if further is None else f"another rollback would go to version {further}"
    if not found["changed"]:
        return f"{called} is the champion already; {on}"
    return (
        f"{called} is the champion again; before, version {found['before']} was; {on}; saemill promote "
        f"{found['name']}@{found['before']} goes forward"
    )


def _writable(storage: str | None) -> str:
    """The storage, where of two who create the same object one is told so: all that moves here rests on that.

    Raises:
        InputError: it cannot be written, or its server ignores create-only PUTs.
    """
    root = storage_of(storage)
    check_storage(root)
    return root


def _registry(registry: Registry) -> Json:
    tags, versions = tags_of(registry), dict(registry.versions.all())
    positions = ((alias, position(registry, alias)) for alias in registry.aliases())
    with ThreadPoolExecutor(_READERS) as pool:
        there = dict(
            zip(versions, pool.map(lambda version: has_files(registry.uri_of(version)), versions.values()), strict=True)
        )
    return {
        "name": registry.name,
        "storage": registry.root,
        "aliases": {alias: at.move.version for alias, at in positions if at is not None},
        "versions": [
            _entry(registry, version, tags.get(number, ())) | {"present": there[number]}
            for number, version in versions.items()
        ],
    }


def _entry(registry: Registry, version: SAEVersion, tags: Sequence[str] | frozenset[str]) -> Json:
    return {**version.model_dump(mode="json"), "uri": registry.uri_of(version), "tags": sorted(tags)}


def _version_line(registry: Mapping[str, Any], version: Mapping[str, Any]) -> str:
    marks = [alias for alias, number in registry["aliases"].items() if number == version["version"]] + version["tags"]
    marks += [] if version["present"] else ["removed"]
    figures = [f"{name} {version['metrics'][name]:.4g}" for name in _SHOWN if name in version["metrics"]]
    called = f"{registry['name']}@{version['version']}"
    told = f"{', '.join(marks) or '-':<22} {', '.join(figures) or '-':<48}"
    return f"{called:<20} {version['when'][:16]}  {told} {version['uri']}"


def _move_line(move: Mapping[str, Any]) -> str:
    came = "from nothing" if move["previous"] is None else f"from version {move['previous']}"
    notes = [move["why"], "forced against a verdict of REJECT" if move["forced"] else ""]
    told = "; ".join(note for note in notes if note)
    line = f"{move['when'][:19]}  {move['alias']:<11} to version {move['version']} {came} ({move['action']})  {move['by']}"
    return f"{line}{': ' + told if told else ''}"
