"""A night in words: the events that it sends, and a page that is read in a minute."""

import contextlib
from collections.abc import Iterator

from flows import events
from flows.config import PipelineConfig
from flows.console import duration
from flows.events import Event, Tell
from flows.night.tonight import Night
from flows.reports import link_to
from tasks.registry.nights import NightDone
from tasks.registry.registry import Registry
from tasks.secret import masked
from tasks.storage.artifacts import resolve

DRIFTED = 1.1
"""Times its own night's FVU that the champion has on tonight's rows, above which it is told that the text is another."""
_MOST = 500
"""Characters of an error."""
_FIGURES = {"fvu": "FVU", "l0": "L0", "dead_fraction": "never firing", "ce_recovered": "CE recovered"}


def events_of(registry: Registry, done: NightDone) -> Iterator[Event]:
    """What happened, in order."""
    name, at = registry.name, f"{registry.name}@{done.version}"
    facts = {
        "name": name,
        "version": done.version,
        "champion": done.champion,
        "verdict": done.verdict,
        "failed_gates": list(done.failed_gates),
        "report": resolve(done.report, registry.root),
    }
    yield Event(events.REGISTERED, name, f"saemill: {at} is registered", {**facts, "alias": "challenger"})
    if done.verdict is not None:
        text = f"saemill: {at} against {name}@{done.champion}: {done.verdict}. {done.reason}"
        yield Event(events.VERDICT, name, text, facts)
    if done.promoted:
        yield Event(events.MOVED, name, f"saemill: {at} is champion now", {**facts, "alias": "champion"})
    if (times := drift_of(done)) is not None and times > DRIFTED:
        text = f"saemill: the champion {name}@{done.champion} has {times:.2f} times its FVU on tonight's rows"
        yield Event(events.DRIFT, name, text, {**facts, "fvu_ratio": times, "corpus_drift": done.corpus_drift})
    yield Event(events.FINISHED, name, f"saemill: {_sentence(name, done)}", facts | {"seconds": done.seconds})


@contextlib.contextmanager
def telling_failures(config: PipelineConfig, tell: Tell | None = None) -> Iterator[Tell]:
    """How a night tells of itself: by the webhook of its settings, unless another way is given; also that it failed."""
    tell = tell or events.by_webhook(config.notify)
    try:
        yield tell
    except Exception as error:
        name, cause = config.registry.name or config.name, getattr(error, "cause", error)  # Ray wraps what workers raise
        said = masked(" ".join(str(cause).split()))[:_MOST]
        tell(Event(events.FAILED, name, f"saemill: the night of {name} failed: {said}", {"name": name, "error": said}))
        raise


def drift_of(done: NightDone) -> float | None:
    """Times its own night's FVU that the champion has on tonight's rows; None where one of the two is not known."""
    if not done.champion_fvu or not done.champion_fvu_before:
        return None
    return done.champion_fvu / done.champion_fvu_before


def headline(night: Night) -> str:
    """The night in a sentence."""
    if not night.is_new:
        return f"nothing is new since {night.registry.name}@{night.done.version} of {night.done.when:%Y-%m-%d %H:%M} UTC"
    return _sentence(night.registry.name, night.done)


def _sentence(name: str, done: NightDone) -> str:
    if done.champion is None:
        champion = "it is the champion now" if done.promoted else "there is no champion yet"
        return f"{name}@{done.version} is the first; {champion}"
    said = f"{name}@{done.version} against the champion {name}@{done.champion}: {done.verdict}"
    return f"{said}, promoted" if done.promoted else said


def markdown(night: Night) -> str:
    """The night on a page."""
    registry, done = night.registry, night.done
    lines = [f"## {headline(night)}", ""]
    if not night.is_new:
        lines += ["Neither text nor settings. Nothing was done. What follows is of that night.", ""]
    lines += [done.reason, ""] if done.reason else []
    lines += [*_next(registry, done), ""]
    lines += [f"[Report]({link_to(resolve(done.report, registry.root))}) · [All nights]({link_to(night.history)})", ""]
    lines += ["| | tonight | champion |", "|---|---|---|", *_figures(done), ""]
    return "\n".join([*lines, *_facts(done)])


def _next(registry: Registry, done: NightDone) -> list[str]:
    at, storage = f"{registry.name}@{done.version}", f"--storage {registry.root}"
    if done.promoted:
        return [f"Back: `saemill rollback {registry.name} {storage}`"] if done.champion is not None else []
    if done.verdict == "REJECT":
        return [f"It stays as it is. Rejected by {', '.join(done.failed_gates)}."]
    if done.verdict == "HOLD":
        return ["It stays as it is."]
    return [f"To make it champion: `saemill promote {at} {storage}`"]


def _figures(done: NightDone) -> Iterator[str]:
    if done.challenger_fvu is not None:
        yield f"| FVU on the same rows | {done.challenger_fvu:.4f} | {_number(done.champion_fvu)} |"
    for name, title in _FIGURES.items():
        if name in done.metrics:
            yield f"| {title} | {_number(done.metrics[name])} | |"


def _facts(done: NightDone) -> Iterator[str]:
    yield f"* {done.new_tokens:,} of {done.tokens:,} rows are new; the night took {duration(done.seconds)}"
    if done.shares:
        told = ", ".join(f"{name} {share:.1%}" for name, share in done.shares.items() if share)
        yield f"* latents: {told}"
    if done.corpus_drift is not None:
        rates = (
            "" if done.rate_drift is None else f"; rates of latents changed by a factor of {done.rate_drift:.2f} (median)"
        )
        yield f"* the mean activation moved by {done.corpus_drift:.3f} of a row's deviation{rates}"
    if done.stored_bytes is None:
        yield f"* **nothing could be removed**: {done.retention_error}"
        return
    full = "" if done.full_in_nights is None else f"; full in {done.full_in_nights:,.0f} nights at this rate"
    yield f"* {_gigabytes(done.stored_bytes)} are stored, {_gigabytes(done.removed_bytes)} were removed{full}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def as_object(night: Night) -> dict[str, object]:
    """The night as one JSON object."""
    facts = {"name": night.registry.name, "new": night.is_new, "history": night.history}
    return {**facts, **night.done.model_dump(mode="json"), "result": night.result.as_json()}
