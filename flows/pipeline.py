"""The whole pipeline on one screen: check, place the stages (``flows.stages``), and run one after the other.

    text -> tokens -> activations -> SAE -> scores -> report        (own activations enter at the second arrow)

The same function runs plainly (``flows.cli``) and as a Prefect flow (``flows.on_prefect``): only ``call`` differs.
What a stage does is imported when it runs, so that this module, the CLI and Prefect's workers start without torch and Ray.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.addresses import Addresses, Placed, ResultUris, addresses, placed
from flows.begun import begun_in_another_precision
from flows.config import PipelineConfig
from flows.planning import forecast
from flows.preflight import check
from flows.registered import registered
from flows.resolve import resolved_and_why
from flows.watched import Watched
from tasks.errors import InputError
from tasks.planner.words import line
from tasks.storage.artifacts import read_json

logger = logging.getLogger("tasks.pipeline")  # below "tasks", whose records are shown

LAST_STAGE = "report"
"""The stage that a run ends with, unless it is told to stop before."""


@dataclass(frozen=True, slots=True)
class Result(ResultUris[str | None]):
    """URIs of the finished results (None: not made) and the figures that sum them up."""

    summary: dict[str, Any]
    """The content of scores/summary.json, and ``tokens_per_second`` of harvest and training."""
    version: str | None = None
    """As what the SAE is registered, such as NAME@3; None: it is not, or the run was to stop before its end."""

    def as_json(self) -> dict[str, Any]:
        """URIs and figures side by side."""
        version = {} if self.version is None else {"version": self.version}
        return {**self.by_result, **version, "summary": self.summary}


Call = Callable[[Placed], None]


def run_pipeline(config: PipelineConfig, call: Call, until: str = LAST_STAGE) -> Result:
    """Run the stages up to ``until`` in order; each is given to ``call``, finished or not, and does nothing if finished.

    Raises:
        InputError: the settings, files or machine are not fit for the run; nothing was written.
        ArtifactError: a stored result is damaged.
    """
    given, began = config, time.monotonic()
    config, precision = resolved_and_why(config)
    size = check(config)
    if precision is not None:  # only now: what is refused is refused in one line
        logger.info("%s", precision)
    at = addresses(config)
    if (begun := begun_in_another_precision(given, config, at)) is not None:
        logger.warning("precision: %s", begun)
    chain = up_to(until, placed(config, at))
    watched = Watched(config, at, size, forecast(config, at, size, chain, time.monotonic() - began), began)
    if watched.forecast.left:
        logger.info("plan: %s", line(watched.forecast))
    for stage in chain:
        watched.call(stage, call)
    found = result(config, at)
    if until == LAST_STAGE:
        found = replace(found, version=registered(config, at))
    if (taken := watched.close(chain)) is not None:  # last: a run is no worse for an account that cannot be kept
        logger.info("%s", taken)
    return found


def up_to(until: str, chain: Sequence[Placed]) -> Sequence[Placed]:
    """The stages that lead to ``until``.

    Raises:
        InputError: no stage of the run is called so.
    """
    names = [stage.name for stage in chain]
    if until not in names:
        raise InputError(f"This run has no stage {until!r}. Its stages are {', '.join(names)}.")
    return chain[: names.index(until) + 1]


def result(config: PipelineConfig, at: Addresses) -> Result:
    """What is finished by now.

    Raises:
        ArtifactError: a manifest or a summary is damaged.
    """
    chain = placed(config, at)
    stored = {"tokens": None} | {stage.result: stage.out if stage.finished else None for stage in chain}
    scores = stored["scores"]
    summary = read_json(scores, "summary.json") if scores is not None else None
    rates = {"harvest": _rate(stored["activations"]), "training": _rate(stored["sae"])}
    return Result(stored, {**(summary or {}), "tokens_per_second": rates})


def _rate(uri: str | None) -> float | None:
    timings = read_json(uri, "run.json") if uri else None
    return timings.get("tokens_per_second") if timings else None
