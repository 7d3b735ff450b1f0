"""``saemill gc --registry``: what versions of a registry no longer need is removed, and what stays is told with its reason.

The policy is that of ``tasks.registry.retention``; of activations, the shards that only they name go with them, which
``tasks.harvest.release`` knows. So the two meet here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from flows.config import load_config
from flows.references import storage_of
from tasks.config_errors import validated
from tasks.errors import InputError
from tasks.harvest.release import PoolNames
from tasks.registry.config import RegistryConfig
from tasks.registry.inventory import inventory
from tasks.registry.nights import Nights
from tasks.registry.records import Signed
from tasks.registry.registry import Registry, require_registry
from tasks.registry.removal import manifest_of, remove, spare
from tasks.registry.retention import NOTHING_MORE, Fate, Needed, Retention, reasons_to_stay, retained
from tasks.registry.storage_forecast import StorageForecast, storage_forecast
from tasks.storage.artifacts import identity


@dataclass(frozen=True, slots=True)
class Swept:
    """What went, or would go, and what stays."""

    name: str
    root: str
    dry_run: bool
    removed: list[tuple[Fate, int]]
    """In order, with the bytes that each frees, those of shards included that only it names."""
    kept: list[Fate]
    forecast: StorageForecast
    """Of what is stored then."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for _, size in self.removed)


def asked(config: str | None, storage: str | None, given: Mapping[str, Any]) -> tuple[str, RegistryConfig]:
    """The storage and the settings of a registry: those of a configuration, where there is one, but for what is given.

    Args:
        config: the file of a configuration.
        storage: as ``--storage``.
        given: settings by name; None for those that are not given.

    Raises:
        InputError: the file or a setting is wrong, or nothing names the registry.
    """
    loaded = None if config is None else load_config(config)
    values = {} if loaded is None else loaded.registry.model_dump()
    settings = validated(
        RegistryConfig, "gc", **values | {name: value for name, value in given.items() if value is not None}
    )
    if settings.name is None:
        raise InputError(f"registry.name is empty in {config}; name the registry with --registry NAME.")
    if loaded is not None:  # where its runs write, whatever the environment says: this removes
        return storage or loaded.storage, settings
    return storage_of(storage), settings


def swept(storage: str, settings: RegistryConfig, signed: Signed, *, dry_run: bool, needed: Needed = NOTHING_MORE) -> Swept:
    """Remove what no version of a registry that stays needs.

    Args:
        storage: root of all results.
        settings: of the registry: its name, and what it keeps.
        signed: who does it, and when.
        dry_run: only say what would be removed.
        needed: what stays beside; the frozen rows of the last night do anyway.

    Raises:
        InputError: there is no such registry.
        ArtifactError: a record or a manifest is damaged, so that nobody knows what it names; nothing was removed.
    """
    registry = require_registry(Registry.at(storage, settings.name or ""))
    there, names, needed = inventory(registry.root), PoolNames(), _with_frozen_rows(registry, needed)
    found = _without_pools_at_work(retained(there, registry, settings, signed.when, needed), names)
    gone: set[str] = set()
    removed = []
    for fate in found.going:
        removed.append((fate, fate.result.size + _size_of_shards(fate, names, gone)))
        gone.add(fate.result.uri)
    if not dry_run:
        for fate in found.staying:
            spare(fate.result)
        removed = _done(removed, registry, settings, signed, names, needed)
        there = inventory(registry.root)
    return Swept(registry.name, registry.root, dry_run, removed, found.staying, storage_forecast(there, registry))


def _done(
    planned: list[tuple[Fate, int]],
    registry: Registry,
    settings: RegistryConfig,
    signed: Signed,
    names: PoolNames,
    needed: Needed,
) -> list[tuple[Fate, int]]:
    """Remove what was planned, and tell what of it went; with an SAE that stays after all, its activations stay."""
    found, after_all = [], set[str | None]()
    for fate, size in planned:
        if fate.result.stage == "activations" and fate.result.identity in after_all:
            continue
        if _remove(fate, registry, settings, signed, names, needed):
            found.append((fate, size))
        else:
            after_all.add(fate.result.named("activations"))
    return found


def _with_frozen_rows(registry: Registry, needed: Needed) -> Needed:
    """With the rows that the last night measured on, which a command without a configuration knows of from here only."""
    nights = Nights(registry)
    last = nights.done.get(nights.done.last())
    if last is None or last.frozen is None:
        return needed
    return replace(needed, activations={identity(last.frozen): "nights are measured on them"} | dict(needed.activations))


def _remove(
    fate: Fate, registry: Registry, settings: RegistryConfig, signed: Signed, names: PoolNames, needed: Needed
) -> bool:
    """Remove a directory, unless its version was promoted or tagged meanwhile; whether it is gone."""

    def may_go() -> bool:
        return fate.version is None or fate.version not in reasons_to_stay(registry, settings, signed.when, needed)

    return remove(fate.result, fate.reason, signed, may_go=may_go, between=partial(_remove_shards, fate, names))


def swept_as_json(found: Swept) -> dict[str, Any]:
    """The same as one JSON object."""
    return {
        "name": found.name,
        "storage": found.root,
        "dry_run": found.dry_run,
        "removed": [{"uri": fate.result.uri, "bytes": size, "reason": fate.reason} for fate, size in found.removed],
        "kept": [{"uri": fate.result.uri, "bytes": fate.result.size, "reason": fate.reason} for fate in found.kept],
        "bytes": found.size,
        "forecast": asdict(found.forecast) | {"full_in_nights": found.forecast.full_in_nights},
    }


def described_sweep(found: Swept) -> str:
    """A line for each directory with its bytes and the reason, then the sum and the forecast."""
    word = "would remove" if found.dry_run else "removed"
    lines = [f"{word} {fate.result.uri} ({size:,} bytes): {fate.reason}" for fate, size in found.removed]
    kept = [f"keeps {fate.result.uri} ({fate.result.size:,} bytes): {fate.reason}" for fate in found.kept]
    total = f"{word} {len(found.removed):,} directories, {found.size:,} bytes"
    return "\n".join([*kept, *lines, total, described_forecast(found.forecast)])


def described_forecast(found: StorageForecast) -> str:
    """How much is stored, how it grows, and when the storage is full."""
    stored = f"stored: {sum(found.by_stage.values()):,} bytes ({_stages(found)})"
    grows = "; how much a night adds is known from the second on" if found.per_night is None else _growth(found)
    free = "" if found.free is None else f"; {found.free:,} bytes are free"
    left = found.full_in_nights
    return f"{stored}{grows}{free}{'' if left is None else f', full in {left:,.0f} nights at this rate'}"


def _growth(found: StorageForecast) -> str:
    return f"; a night adds {found.per_night:,.0f} bytes, the median of {found.nights}"


def _stages(found: StorageForecast) -> str:
    return ", ".join(f"{stage} {size:,}" for stage, size in found.by_stage.items())


def _without_pools_at_work(found: Retention, names: PoolNames) -> Retention:
    """The same, but activations stay in whose pool a harvest may be at work: it may have found their shards there."""
    going, staying = [], list(found.staying)
    manifests = {fate.result.uri: manifest_of(fate.result) for fate in found.going if fate.result.stage == "activations"}
    for fate in found.going:
        busy = names.harvested_lately(fate.result.uri, manifests) if fate.result.uri in manifests else None
        if busy is None:
            going.append(fate)
        else:
            staying.append(replace(fate, reason=f"a harvest may be at work in its pool: {busy} is of no manifest yet"))
    return Retention(going, staying)


def _size_of_shards(fate: Fate, names: PoolNames, gone: set[str]) -> int:
    if fate.result.stage != "activations":
        return 0
    found = names.released(fate.result.uri, manifest_of(fate.result), gone)
    if found is None:
        return 0
    records = (found.pool.head(key) for key in found.records)
    return found.size + sum(info.size for info in records if info is not None)


def _remove_shards(fate: Fate, names: PoolNames) -> None:
    if fate.result.stage == "activations":
        found = names.released(fate.result.uri, manifest_of(fate.result))
        if found is not None:
            found.remove()
