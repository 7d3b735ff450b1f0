"""Which results of a registry may go, and why each other one stays.

What stays of the versions: those with an alias, the newest ones, whatever was champion within some days, the version to
which a rollback would go, those with the tag ``keep``, and those from which a version that stays began its training. With a
version that goes, its scores and reports go, and activations that only such versions were trained on.

Rows of a rolling lake and lists of windows go when neither they nor the SAE that is trained on them are younger than a day.

Never gone is what anything that stays names, what is not finished, what lies outside the storage's own folders, and SAEs
that no version of this registry stands for.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tasks.registry.aliases import AliasMove
from tasks.registry.config import RegistryConfig
from tasks.registry.inventory import Inventory, StoredResult
from tasks.registry.moving import position
from tasks.registry.names import CHAMPION, KEEP
from tasks.registry.registry import Registry, registry_names
from tasks.registry.tagging import tags_of
from tasks.registry.versions import SAEVersion
from tasks.storage.artifacts import identity

YOUNG_S = 24 * 3600.0
"""What is not finished and younger may be at work."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one directory."""

    result: StoredResult
    reason: str
    version: int | None = None
    """Whose SAE it is."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What goes and what stays of the results that versions of one registry name."""

    going: list[Fate] = field(default_factory=list)
    """In the order in which they are to be removed: what was made of a result goes before it."""
    staying: list[Fate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Needed:
    """What stays whatever the rules say, since work that goes on needs it."""

    versions: Mapping[int, str] = field(default_factory=dict)
    """By number, with the reason."""
    activations: Mapping[str, str] = field(default_factory=dict)
    """By identity, with the reason."""


NOTHING_MORE = Needed()


def reasons_to_stay(
    registry: Registry, settings: RegistryConfig, now: datetime, needed: Needed = NOTHING_MORE
) -> dict[int, list[str]]:
    """By version, why it stays; versions that are not here may go.

    Raises:
        ArtifactError: a record is damaged.
    """
    versions = {version.version: version for _, version in registry.versions.all()}
    found: dict[int, list[str]] = defaultdict(list)
    for alias in registry.aliases():
        if (at := position(registry, alias)) is not None:
            found[at.move.version].append(alias)
            if alias == CHAMPION and at.move.rollback_to is not None:
                found[at.move.rollback_to].append("a rollback goes there")
    for number in sorted(versions)[-settings.keep_versions :]:
        found[number].append(f"one of the last {settings.keep_versions}")
    for number, until in _reigns(registry).items():
        if until is not None and until >= now - timedelta(days=settings.keep_champion_days):
            found[number].append(f"champion until {until:%Y-%m-%d}")
    for number, tags in tags_of(registry).items():
        if KEEP in tags:
            found[number].append(f"tagged {KEEP}")
    for number, reason in needed.versions.items():
        found[number].append(reason)
    # Of those that stay by themselves only: with a warm start, every champion began with the one before it.
    for number in sorted(found):
        began = versions[number].parents.champion if number in versions else None
        if began is not None and began not in found:
            found[began].append(f"{registry.name}@{number} was trained from it")
    return {number: reasons for number, reasons in found.items() if number in versions}


def retained(
    there: Inventory, registry: Registry, settings: RegistryConfig, now: datetime, needed: Needed = NOTHING_MORE
) -> Retention:
    """What may go of a storage, of what versions of one registry name; nothing is removed.

    Raises:
        ArtifactError: a record is damaged.
    """
    stays = reasons_to_stay(registry, settings, now, needed)
    versions = [version for _, version in registry.versions.all()]
    kept = [version for version in versions if version.version in stays] + list(_of_others(there.root, registry.name))
    untouchable = {registry.uri_of(version) for version in kept}
    leaving = [version for version in versions if _may_go(registry, version, untouchable)]
    found = Retention()
    _add_derived(found, there, leaving, registry)
    _add_saes(found, there, registry, settings, stays, {version.version for version in leaving})
    _add_activations(found, there, leaving, {version.parents.activations for version in kept}, needed.activations)
    _add_lakes(found, there)
    _add_stopped(found, there)
    return found


def _of_others(root: str, name: str) -> Iterator[SAEVersion]:
    """The versions of all other registries of a storage: they are not for this one to remove."""
    for other in registry_names(root):
        if other != name:
            yield from (version for _, version in Registry.at(root, other).versions.all())


def _may_go(registry: Registry, version: SAEVersion, untouchable: set[str]) -> bool:
    """Whether a version's SAE lies in the storage's own folder, and is that of no version which stays."""
    uri = registry.uri_of(version)
    return uri not in untouchable and uri.rpartition("/")[0] == f"{registry.root}/saes"


def _reigns(registry: Registry) -> dict[int, datetime | None]:
    """By version that was ever champion, until when it was last; None for the one that is."""
    moves: Sequence[AliasMove] = [move for _, move in registry.moves(CHAMPION).all()]
    ends = [*(move.when for move in moves[1:]), None]
    return {move.version: end for move, end in zip(moves, ends, strict=False)}  # without moves there is one end too many


def _reasons(registry: Registry, settings: RegistryConfig) -> dict[int, str]:
    """By version, what is said of it where it goes."""
    reigns, rest = _reigns(registry), f"not one of the last {settings.keep_versions}, no alias, not tagged {KEEP}"
    found = {number: f"never champion, {rest}" for number in registry.versions.numbers()}
    return found | {number: f"champion until {until:%Y-%m-%d}, {rest}" for number, until in reigns.items() if until}


def _add_derived(found: Retention, there: Inventory, leaving: Sequence[SAEVersion], registry: Registry) -> None:
    """Reports and scores of the SAEs that go; reports first.

    They name an SAE by its hash alone: those of an SAE that another run has under another name stay with it.
    """
    uris = {registry.uri_of(version): version for version in leaving}
    kept = {result.identity for result in there.of("saes") if result.uri not in uris}
    going = {identity(uri): version for uri, version in uris.items() if identity(uri) not in kept}
    for stage in ("reports", "scores"):
        for result in there.of(stage):
            version = going.get(result.named("sae") or "")
            if version is not None:
                found.going.append(Fate(result, f"of {registry.name}@{version.version}, which goes"))


def _add_saes(
    found: Retention,
    there: Inventory,
    registry: Registry,
    settings: RegistryConfig,
    stays: Mapping[int, Sequence[str]],
    leaving: set[int],
) -> None:
    """The SAEs of the versions, as far as they are there."""
    saes, reasons = {result.uri: result for result in there.of("saes")}, _reasons(registry, settings)
    for number, version in registry.versions.all():
        result = saes.get(registry.uri_of(version))
        if result is None or (result.removal and result.manifest is None):
            continue
        called = f"{registry.name}@{number}"
        if number in stays:
            found.staying.append(Fate(result, f"{called}: {', '.join(stays[number])}", number))
        elif number not in leaving:
            found.staying.append(Fate(result, f"{called}: a version that stays is the same SAE", number))
        elif result.manifest is None:
            found.staying.append(Fate(result, f"{called}: it is not finished", number))
        else:
            found.going.append(Fate(result, f"{called}: {reasons[number]}", number))


def _add_activations(
    found: Retention,
    there: Inventory,
    leaving: Sequence[SAEVersion],
    parents: set[str | None],
    needed: Mapping[str, str],
) -> None:
    """Activations that no version that stays, and no other result that is there, was made of."""
    gone, trained = {fate.result.uri for fate in found.going}, {version.parents.activations for version in leaving}
    used: dict[str, str] = {}
    for result in there.results:
        if result.uri not in gone and (named := result.named("activations")) is not None:
            used[named] = result.uri
    at_work = _at_work(there)
    for result in there.of("activations"):
        if result.identity not in trained or result.manifest is None:
            continue
        if result.identity in needed:
            found.staying.append(Fate(result, needed[result.identity]))
        elif result.identity in parents:
            found.staying.append(Fate(result, "a version that stays was trained on them"))
        elif result.identity in used:
            found.staying.append(Fate(result, f"{used[result.identity]} is made of them"))
        elif at_work is not None:
            found.staying.append(Fate(result, f"{at_work} is not finished, younger than a day, and may read them"))
        else:
            found.going.append(Fate(result, "only versions that go were trained on them"))


def _at_work(there: Inventory) -> str | None:
    """A result that is being made, or was until a day ago; of an unfinished one nobody knows what it reads."""
    oldest = time.time() - YOUNG_S
    harvested = {result.named("tokens") for result in there.of("activations")}
    for result in there.results:
        if result.newest < oldest or result.removal:
            continue
        if result.manifest is None or (result.stage == "tokens" and result.identity not in harvested):
            return result.uri
    return None


def _add_lakes(found: Retention, there: Inventory) -> None:
    """Rows that were to go with a training that nobody goes on with, whatever registry its SAE was for."""
    oldest = time.time() - YOUNG_S
    saes = {result.uri.rpartition("/")[2]: result for result in there.of("saes")}
    for name, folders in sorted(there.lakes.items()):
        sae = saes.get(name)
        if max(folder.newest for folder in folders) >= oldest:
            found.staying.extend(Fate(folder, "younger than a day: a training may be at work there") for folder in folders)
        elif sae is not None and sae.newest >= oldest:
            found.staying.extend(Fate(folder, f"{sae.uri} is younger than a day, and may need it") for folder in folders)
        else:
            found.going.extend(Fate(folder, "a training that was given up has left it") for folder in folders)


def _add_stopped(found: Retention, there: Inventory) -> None:
    """What a removal that was stopped has left."""
    for result in there.results:
        if result.removal and result.manifest is None:
            found.going.append(Fate(result, "left by a removal that was stopped"))
