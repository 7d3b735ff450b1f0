"""Moving aliases: promotion, rollback, and the challenger that a run leaves; each is one record, and one alone is next."""

import uuid
from dataclasses import dataclass
from typing import Literal

from tasks.errors import ArtifactError, InputError
from tasks.registry.aliases import AliasMove
from tasks.registry.content import content_hash, file_hashes, require_files
from tasks.registry.names import CHALLENGER, CHAMPION
from tasks.registry.records import Signed
from tasks.registry.registry import Registry
from tasks.registry.verdicts import StoredVerdict, verdict_of
from tasks.registry.versions import SAEVersion
from tasks.storage.objects import open_store


@dataclass(frozen=True, slots=True)
class Position:
    """Where an alias stands: a move and its number."""

    number: int
    move: AliasMove


@dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion that nothing speaks against."""

    version: SAEVersion
    before: Position | None
    """Where the champion stood when this was looked at; only from there it is moved."""
    verdict: StoredVerdict | None

    @property
    def is_champion(self) -> bool:
        """Whether there is nothing left to do."""
        return self.before is not None and self.before.move.version == self.version.version


def position(registry: Registry, alias: str) -> Position | None:
    """The last move of an alias; None where it was never given.

    Raises:
        ArtifactError: the record is damaged.
    """
    log = registry.moves(alias)
    last = log.last()
    return Position(last, log.at(last)) if last else None


def considered(registry: Registry, number: int, *, force: bool = False) -> Promotion:
    """What a promotion would do, after all that could speak against it.

    Raises:
        InputError: there is no such version, its SAE is gone, or its verdict is REJECT and ``force`` is off.
        ArtifactError: its files are not those that were registered, or a record is damaged.
    """
    version, before = registry.version(number), position(registry, CHAMPION)
    against = None if before is None else before.move.version
    verdict = verdict_of(registry.root, registry.name, number, against)
    found = Promotion(version, before, verdict)
    if found.is_champion:
        return found
    if verdict is not None and verdict.verdict == "REJECT" and not force:
        raise InputError(
            f"{registry.name}@{number} was rejected: {_failed(verdict)}. Promote a version that was not, or say --force, "
            "which is recorded."
        )
    uri = registry.uri_of(version)
    require_files(uri, f"{registry.name}@{number}")
    if content_hash(file_hashes(open_store(uri))) != version.content:
        raise ArtifactError(
            f"{uri} is not the SAE that was registered as {registry.name}@{number}: its content has another hash. Register "
            "it anew with saemill registry add, or restore its files."
        )
    return found


def promote(registry: Registry, found: Promotion, signed: Signed, why: str = "", *, force: bool = False) -> AliasMove:
    """Make a version the champion; where it is that already, nothing is written.

    A removal marks an SAE and then looks whether it was promoted; a promotion is written and then looks for that mark. So
    whoever comes second gives way, and no champion is removed.

    Raises:
        InputError: another promotion or rollback came first, or the SAE is being removed.
        ArtifactError: a record is damaged.
    """
    if found.before is not None and found.is_champion:
        return found.before.move
    verdict, before = found.verdict, found.before
    move = AliasMove(
        alias=CHAMPION,
        version=found.version.version,
        previous=None if before is None else before.move.version,
        below=None if before is None else before.number,
        rollback_to=None if before is None else before.move.version,
        action="promote",
        why=why,
        verdict=None if verdict is None else verdict.key,
        forced=force and verdict is not None and verdict.verdict == "REJECT",
        move=uuid.uuid4().hex,
        by=signed.by,
        when=signed.when,
    )
    promoted = _written(registry, move, 0 if before is None else before.number)
    try:
        require_files(registry.uri_of(found.version), f"{registry.name}@{move.version}")
    except InputError:
        if before is not None:
            rollback(registry, signed, f"the SAE of version {move.version} was being removed")
        raise
    return promoted


def rollback(registry: Registry, signed: Signed, why: str = "", to: int | None = None) -> AliasMove:
    """Make the champion before this one champion again: a new record, and nothing is deleted.

    Each rollback goes one promotion further back. What was rolled back from is reached again by promoting it.

    Args:
        registry: whose champion.
        signed: who does it.
        why: in words.
        to: the version that is to be champion. Where it is that already nothing is written, so that the same command can be
            given twice. None: the one before the present.

    Raises:
        InputError: there was no champion before, its SAE is gone, or another promotion or rollback came first.
        ArtifactError: a record is damaged.
    """
    now = position(registry, CHAMPION)
    if now is None:
        raise InputError(f"{registry.name} has no champion at {registry.root}, so there is nothing to roll back.")
    if now.move.version == to:
        return now.move
    target = _below(registry, now.move)
    while to is not None and target is not None and target.version != to:
        target = _below(registry, target)
    if target is None:
        wanted = "an earlier one" if to is None else f"version {to} below it"
        raise InputError(
            f"{registry.name}@{CHAMPION} is version {now.move.version}, and there was no promotion of {wanted}. saemill "
            f"registry history {registry.name} lists all; saemill promote takes any version."
        )
    require_files(registry.uri_of(registry.version(target.version)), f"{registry.name}@{target.version}")
    move = AliasMove(
        alias=CHAMPION,
        version=target.version,
        previous=now.move.version,
        below=target.below,
        rollback_to=target.rollback_to,
        action="rollback",
        why=why,
        move=uuid.uuid4().hex,
        by=signed.by,
        when=signed.when,
    )
    return _written(registry, move, now.number)


def challenge(registry: Registry, number: int, signed: Signed) -> AliasMove:
    """Make a version the challenger, unless a later one is: the alias never goes back, so a run may be given again.

    Raises:
        ArtifactError: a record is damaged.
    """
    log = registry.moves(CHALLENGER)
    while True:
        now = position(registry, CHALLENGER)
        if now is not None and now.move.version >= number:
            return now.move
        move = AliasMove(
            alias=CHALLENGER,
            version=number,
            previous=None if now is None else now.move.version,
            below=None if now is None else now.number,
            rollback_to=None if now is None else now.move.version,
            action="register",
            move=uuid.uuid4().hex,
            by=signed.by,
            when=signed.when,
        )
        if log.append(1 if now is None else now.number + 1, move):
            return move


def back(registry: Registry, alias: str, steps: int) -> AliasMove:
    """The move that an alias stands at, or that it stood at so many promotions ago.

    Raises:
        InputError: the alias was never given, or moved less often.
        ArtifactError: a record is damaged.
    """
    now = position(registry, alias)
    if now is None:
        there = registry.aliases()
        given = f"; there are {', '.join(there)}" if there else ", nor any other alias"
        raise InputError(f"{registry.name} has no alias {alias!r} at {registry.root}{given}, and versions by number.")
    found: AliasMove | None = now.move
    for _ in range(steps):
        found = None if found is None else _below(registry, found)
    if found is None:
        raise InputError(
            f"{registry.name}@{alias}~{steps} goes back further than {alias} was moved; saemill registry history "
            f"{registry.name} lists all moves."
        )
    return found


def moves_of(registry: Registry) -> list[AliasMove]:
    """All moves of all aliases, the oldest first.

    Raises:
        ArtifactError: a record is damaged.
    """
    found = [
        (move.when, alias, number, move) for alias in registry.aliases() for number, move in registry.moves(alias).all()
    ]
    return [move for *_, move in sorted(found, key=lambda one: one[:3])]


def _below(registry: Registry, move: AliasMove) -> AliasMove | None:
    return None if move.below is None else registry.moves(move.alias).at(move.below)


def _written(registry: Registry, move: AliasMove, after: int) -> AliasMove:
    """The move as the one after the move of that number.

    Raises:
        InputError: another is that by now.
    """
    log = registry.moves(move.alias)
    if log.append(after + 1, move):
        return move
    first = log.at(after + 1)
    did: Literal["promoted", "rolled back to"] = "rolled back to" if first.action == "rollback" else "promoted"
    raise InputError(
        f"{registry.name}@{move.alias} was not moved to version {move.version}: at the same time {first.by} {did} version "
        f"{first.version}. Look at saemill registry history {registry.name}, and give the command again if it still holds."
    )


def _failed(verdict: StoredVerdict) -> str:
    """Which gates speak against it, as far as they are named."""
    names = [str(gate.get("metric")) for gate in verdict.gates if gate.get("outcome") == "loss"]
    against = "" if verdict.against is None else f" against version {verdict.against}"
    return f"its verdict{against} is REJECT{' by ' + ', '.join(names) if names else ''}"
