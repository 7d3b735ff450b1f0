"""What a night does after its training, each step found finished where it is done again."""

import logging
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from flows.addresses import Placed
from flows.night.tonight import Tonight
from flows.registered import now
from flows.stages import report_stage
from tasks.errors import SaemillError
from tasks.progress import Listener
from tasks.registry.moving import considered, promote
from tasks.storage.artifacts import identity, read_manifest, recipe_hash
from tasks.storage.objects import open_store

if TYPE_CHECKING:
    from flows.gating import Gated
    from flows.retention import Swept

logger = logging.getLogger("tasks.night")  # below "tasks", whose records are shown

ROWS = 200_000
"""Over which codes are compared, as by ``saemill match``."""


def gate(tonight: Tonight, listener: Listener) -> "Gated | None":
    """Hold tonight's SAE against the champion, and store the verdict; None where there is no champion.

    Raises:
        InputError: the two are not of the same hooks, or the frozen rows are not there.
        ArtifactError: something is damaged.
    """
    from flows.direct import DirectSettings
    from flows.gating import Asked, gated_by
    from tasks.registry.verdicts import VersionVerdict, store_verdict

    if tonight.champion is None:
        return None
    config, frozen = tonight.config, tonight.config.gates.activations
    asked = Asked(
        champion=tonight.sae_of(tonight.champion),
        challenger=tonight.at.sae,
        activations=frozen or tonight.at.activations,
        tokens=tonight.at.tokens if frozen is None else None,
        out=f"{tonight.registry.root}/gates",
    )
    found = gated_by(DirectSettings(model=config.model, gates=config.gates), asked, listener)
    verdict = VersionVerdict(
        name=tonight.registry.name,
        version=tonight.version,
        against=tonight.champion,
        verdict=found.ledger.verdict,
        gates=tuple(asdict(one) for one in found.ledger.gates),
    )
    store_verdict(tonight.registry.root, verdict, now())
    return found


def match(tonight: Tonight) -> dict[str, Any] | None:
    """Follow the champion's latents into tonight's SAE; None where there is no champion.

    Raises:
        InputError: the two are not of the same hooks, or what is to be carried over is not there.
        ArtifactError: something is damaged.
    """
    from flows.identity import matched
    from tasks.identity.request import MatchRequest, line_before

    if tonight.champion is None or tonight.version < tonight.champion:  # ids go forward only
        return None
    champion, before = tonight.sae_of(tonight.champion), _match_before(tonight)
    called, number = (tonight.registry.name, tonight.champion) if before is None else (None, None)
    line, name, first, last = line_before(champion, before, called, number, tonight.version)
    request = MatchRequest(
        a=champion,
        b=tonight.at.sae,
        activations=tonight.at.activations,
        rows=ROWS,
        previous=before,
        name=name,
        version_a=first,
        version=last,
        carry=_carried_so_far(tonight, before),
    )
    # Below the reports, where links from Prefect's UI lead.
    content = recipe_hash(request.content())[:6]  # what is carried over may be edited before a killed night goes on
    out = f"{tonight.registry.root}/reports/{tonight.registry.name}-latents-{first}-to-{last}-{content}"
    return matched(request, line, out, tonight.registry.root)


def _match_before(tonight: Tonight) -> str | None:
    """The match that ends with the champion: that of the night that made it, which need not have been recorded."""
    night = tonight.champions_night
    if night is not None:
        return None if night.matched is None else tonight.uri(night.matched)
    folder = f"{tonight.registry.root}/reports"
    ends = re.compile(rf"{re.escape(tonight.registry.name)}-latents-\d+-to-{tonight.champion}-[0-9a-f]+")
    there = [f"{folder}/{name}" for name in sorted(open_store(folder).names()) if ends.fullmatch(name)]
    return next((uri for uri in there if read_manifest(uri) is not None), None)


def _carried_so_far(tonight: Tonight, before: str | None) -> str | None:
    """What is to be carried over: what the champion's night carried over to it, else what the settings name."""
    from tasks.identity.carry import file_names

    source = tonight.config.registry.carry
    if source is None or before is None:
        return source
    kept = file_names(source)[0]
    return source if open_store(before).head(kept) is None else f"{before}/{kept}"


def report(tonight: Tonight, matched: dict[str, Any] | None) -> Placed:
    """The report, in which each latent's line of descent stands where there is one."""
    found = None if matched is None else matched["table"].rpartition("/")[0]
    stage = replace(report_stage(tonight.config), matched=found).reading(tonight.at.by_result)
    return Placed(stage, stage.places(tonight.registry.root, tonight.config.name)["report"])


def promoted(tonight: Tonight, gated: "Gated | None") -> bool:
    """Promote tonight's SAE where the settings ask for it and its verdict is PROMOTE, or there is no champion yet.

    Raises:
        InputError: another was promoted at this moment.
        ArtifactError: the SAE's files are not those that were registered.
    """
    first = tonight.begun.champion is None
    wins = gated is not None and gated.ledger.verdict == "PROMOTE"
    if not tonight.config.gates.auto_promote or not (first or wins):
        return False
    found = considered(tonight.registry, tonight.version)
    if found.is_champion:
        return True
    if (0 if found.before is None else found.before.number) != tonight.begun.champion_move:
        logger.warning("the champion of %s was moved since the night began: nothing is promoted", tonight.registry.name)
        return False
    promote(tonight.registry, found, now(), "the first version" if gated is None else gated.ledger.reason)
    return True


def retained(tonight: Tonight) -> "Swept | str":
    """Remove what no version needs any more, or only say what could go; or say why that could not be told.

    A damaged result anywhere on the storage is no reason to lose what the night has made.
    """
    from flows.retention import swept
    from tasks.registry.retention import Needed

    settings, gates = tonight.config.registry, tonight.config.gates
    versions = {tonight.version: "tonight's"} | ({tonight.champion: "tonight's champion"} if tonight.champion else {})
    read = (gates.activations, tonight.config.activations.source, tonight.at.activations)
    needed = Needed(versions, {identity(uri): "nights read them" for uri in read if uri is not None})
    try:
        return swept(tonight.registry.root, settings, now(), dry_run=not settings.retain, needed=needed)
    except SaemillError as error:
        logger.warning("nothing is removed: %s", error)
        return str(error)
