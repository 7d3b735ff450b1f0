"""What is kept of a night."""

from typing import Any

from flows.night.tonight import Outcome, Tonight
from flows.registered import now
from tasks.registry.nights import NightDone, Nights
from tasks.storage.artifacts import read_manifest

CLASSES = ("same", "drifted", "split", "died", "merged", "born")


def record_of(tonight: Tonight, outcome: Outcome) -> NightDone:
    """What came of a night.

    Raises:
        ArtifactError: something that it reads is damaged.
    """
    signed = now()
    return NightDone(
        by=signed.by,
        when=signed.when,
        version=tonight.version,
        champion=tonight.champion,
        activations=tonight.below(tonight.at.activations),
        scores=tonight.below(tonight.at.scores),
        report=tonight.below(outcome.report),
        metrics=tonight.registry.version(tonight.version).metrics,
        promoted=outcome.promoted,
        seconds=outcome.seconds,
        frozen=tonight.config.gates.activations,
        **_stored(outcome),
        **_rows(tonight),
        **_verdict(tonight, outcome),
        **_identity(tonight, outcome),
    )


def _stored(outcome: Outcome) -> dict[str, Any]:
    swept = outcome.swept
    if isinstance(swept, str):
        return {"retention_error": swept}
    return {
        "removed_bytes": 0 if swept.dry_run else swept.size,
        "stored_bytes": sum(swept.forecast.by_stage.values()),
        "full_in_nights": swept.forecast.full_in_nights,
    }


def _rows(tonight: Tonight) -> dict[str, Any]:
    from tasks.activations.drift import mean_shift, new_rows, rows_of

    hook, rows, champions = tonight.config.roles.first, tonight.at.activations, tonight.champions_night
    before = [tonight.uri(done.activations) for _, done in Nights(tonight.registry).done.all()]
    last = next((uri for uri in reversed(before) if read_manifest(uri) is not None), None)
    then = None if champions is None else tonight.uri(champions.activations)
    return {
        "tokens": rows_of(rows, hook),
        "new_tokens": rows_of(rows, hook) if last is None else new_rows(rows, last, hook),
        "corpus_drift": None if then is None or read_manifest(then) is None else mean_shift(rows, then, hook),
    }


def _verdict(tonight: Tonight, outcome: Outcome) -> dict[str, Any]:
    if outcome.gated is None:
        return {}
    ledger, champions = outcome.gated.ledger, tonight.champions_night
    frozen = tonight.config.gates.activations is not None  # on the same rows every night, no drift can be seen
    fvu = next((gate for gate in ledger.gates if gate.metric == "fvu"), None)
    return {
        "verdict": ledger.verdict,
        "reason": ledger.reason,
        "failed_gates": tuple(gate.metric for gate in ledger.gates if gate.outcome == "loss"),
        "ledger": tonight.below(outcome.gated.uri),
        "champion_fvu": None if fvu is None else fvu.champion,
        "champion_fvu_before": None if champions is None or frozen else _own_fvu(champions),
        "challenger_fvu": None if fvu is None else fvu.challenger,
    }


def _identity(tonight: Tonight, outcome: Outcome) -> dict[str, Any]:
    from tasks.identity.rates import rate_drift

    uri, champions = outcome.match_uri, tonight.champions_night
    if uri is None or outcome.matched is None:
        return {}
    then = None if champions is None else tonight.uri(champions.scores)
    known = then is not None and read_manifest(then) is not None
    return {
        "matched": tonight.below(uri),
        "shares": {name: outcome.matched[name] for name in CLASSES},
        "rate_drift": rate_drift(uri, then, tonight.at.scores) if known and then is not None else None,
    }


def _own_fvu(night: NightDone) -> float | None:
    """Of a night's SAE on its own rows."""
    return night.metrics.get("fvu") if night.frozen is not None else night.challenger_fvu or night.metrics.get("fvu")
