"""The pipeline as a Prefect flow: one Prefect task per stage, small JSON references between them, and artifacts.

Bytes never pass through Prefect, and neither do results: the manifests on storage are the cache.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import flow, get_client, get_run_logger, runtime, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import MissingContextError
from prefect.states import Completed, Failed
from typing_extensions import override

from flows.addresses import Placed
from flows.config import PipelineConfig
from flows.console import describe, logged_to
from flows.form import PipelineForm, SweepForm, takes
from flows.labels import run_name, run_tags, sweep_name, sweep_tags
from flows.pace import Pace
from flows.pipeline import LAST_STAGE, Result, run_pipeline
from flows.reports import link_to
from flows.sweep import Step, Sweep, SweepResult, described, run_sweep
from tasks.errors import InputError, SaemillError
from tasks.progress import Listener, Progress
from tasks.secret import masked

R = TypeVar("R")
ARTIFACT_EVERY_S = 10.0
"""Each update is a write to the server's database."""
LOG_EVERY_S = 5.0
DAY_S = 24 * 3600
TIMEOUT_S, LONG_TIMEOUT_S = DAY_S, 14 * DAY_S
"""After this long a stage counts as hung; it goes on from what it wrote when it is tried again."""


@flow(name="pipeline", persist_result=False, validate_parameters=False)
@takes(PipelineForm)
def pipeline(**chosen: Any) -> Result | State[Any]:
    """Harvest a language model's activations, train a sparse autoencoder on them, score its latents, write a report.

    Results are named by the settings that change them: what is finished already is not done again.
    """

    def work() -> Result:
        form = PipelineForm.filled(chosen, stored())
        return conduct(form.settings(), form.until)

    return in_a_sentence(work)


@flow(name="sweep", persist_result=False, validate_parameters=False)
@takes(SweepForm)
def sweep(**chosen: Any) -> SweepResult | State[Any]:
    """Train the sparse autoencoders of a sweep on the same activations in one pass, and compare them on one page.

    Each is written where a run of its own would have written it: what is finished already is not done again.
    """
    return in_a_sentence(lambda: conduct_sweep(SweepForm.filled(chosen, stored()).settings()))


@flow(name="recorded-pipeline", persist_result=False)
def recorded_pipeline(config: PipelineConfig, until: str = LAST_STAGE) -> Result | State[Any]:
    """The pipeline as the command line started it: with all settings as they were resolved there."""
    return in_a_sentence(lambda: conduct(config, until))


@flow(name="recorded-sweep", persist_result=False)
def recorded_sweep(config: PipelineConfig) -> SweepResult | State[Any]:
    """A sweep as the command line started it: with all settings as they were resolved there."""
    return in_a_sentence(lambda: conduct_sweep(config))


def stored() -> dict[str, Any]:
    """The parameters of the deployment that the present flow run comes from; none where it comes from none."""
    parameters: dict[str, Any] | None = runtime.deployment.parameters
    return parameters or {}


def in_a_sentence(work: Callable[[], R]) -> R | State[Any]:
    """What ``work`` returns; where it raises an error on purpose, a failed state that says why, without a traceback.

    Whoever called the flow as a function is given the error itself.
    """
    try:
        return work()
    except SaemillError as error:
        # Ray wraps what its workers raise; the cause is the sentence, the wrapper a traceback.
        cause = getattr(error, "cause", error)
        return Failed(message=str(cause), data=cause)


def _told_in_a_sentence(record: logging.LogRecord) -> bool:
    """Leave a traceback out where its error is a sentence, and the record too where the run's state says that already."""
    if record.exc_info is None or not isinstance(record.exc_info[1], SaemillError):
        return True
    record.exc_info = None
    return record.name == "prefect.task_runs"


# Prefect logs what a failed state holds with its traceback, and there is no state that fails without raising (3.8.8).
for _runs in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_runs).addFilter(_told_in_a_sentence)


def conduct(config: PipelineConfig, until: str = LAST_STAGE) -> Result:
    """Run the pipeline inside the present flow run and publish what came of it as artifacts."""
    labelled(run_name(config), run_tags(config))
    with in_run():
        result = run_pipeline(config, called, until)
    publish(result)
    return result


def conduct_sweep(config: PipelineConfig) -> SweepResult:
    """Run a sweep inside the present flow run and publish what came of it as artifacts."""
    labelled(sweep_name(config), sweep_tags(config))
    with in_run():
        result = run_sweep(config, called, _do)
    link = link_to(result.report)
    create_link_artifact(link=link, link_text="Open the page", key="sweep-page", description=result.report)
    get_run_logger().info("The page of the sweep is at %s", link)
    create_markdown_artifact(markdown=f"```\n{described(result)}\n```", key="sweep", description="How the SAEs compare")
    return result


def in_run() -> contextlib.AbstractContextManager[None]:
    """Until the block ends, what stages log goes to the log of the present run, which the UI shows."""
    return logged_to(_InRunsLog())


def labelled(name: str, tags: list[str]) -> None:
    """Name the present flow run after what it does, and tag it so that it is found again."""
    with get_client(sync_client=True) as client:
        kept = [*runtime.flow_run.tags, *tags]
        client.update_flow_run(runtime.flow_run.id, name=name, tags=list(dict.fromkeys(kept)))


class _InRunsLog(logging.Handler):
    """Passes records on to the log of the run that they are part of."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            logger = get_run_logger()
        except MissingContextError:  # a thread of a stage's own
            logger = logging.getLogger(__name__)
        logger.log(record.levelno, "%s", masked(record.getMessage()))


def _is_worth_another_try(_task: Any, _run: Any, state: State[Any]) -> bool:
    return not isinstance(state.data, InputError)  # which is as wrong the next time


AGAIN: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_condition_fn": _is_worth_another_try,
    "persist_result": False,
    "cache_policy": NO_CACHE,
}


@task(**AGAIN)
def run_stage(stage: Placed) -> str | State[str]:
    """Run one stage; the URI of what it wrote."""
    out = stage.out
    if stage.finished:
        return Completed(name="FinishedEarlier", message=f"{out} was finished before.", data=out)
    get_run_logger().info("writing %s", out)
    with unwrapped():
        stage.run(listener(stage.name, has_bar=stage.is_long))
    return out


def called(stage: Placed) -> None:
    """Run a stage as a Prefect task."""
    timeout_s = LONG_TIMEOUT_S if stage.is_long else TIMEOUT_S
    run_stage.with_options(name=stage.name, task_run_name=stage.name, timeout_seconds=timeout_s)(stage)


@task(**AGAIN)
def run_step(step: Step, sweep: Sweep) -> str:
    """Run one step of a sweep, which does nothing where it is finished; the URI of the sweep."""
    with unwrapped():
        step(sweep, listener("sweep", has_bar=True))
    return sweep.report


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what Ray wraps of a worker's error as that error.

    Tasks raise. A failed state that a task returns is no reason for Prefect to end the flow, nor to ask whether to try again
    (3.8.8, task_engine.py): the next stage would begin.
    """
    try:
        yield
    except SaemillError as error:
        raise getattr(error, "cause", error) from None


def _do(step: Step, sweep: Sweep) -> None:
    named = run_step.with_options(name=step.__name__, task_run_name=step.__name__, timeout_seconds=LONG_TIMEOUT_S)
    named(step, sweep)


def listener(stage: str, *, has_bar: bool) -> Listener:
    """Tell the run's log and a progress artifact of a stage's progress, each at its own pace."""
    logger = get_run_logger()
    pace = Pace()
    bar = _ProgressArtifact(stage) if has_bar else None
    logged = -LOG_EVERY_S

    def listen(progress: Progress) -> None:
        nonlocal logged
        described = describe(progress, pace.left(progress))
        ended = progress.done >= progress.total
        if ended or time.monotonic() - logged >= LOG_EVERY_S:
            logged = time.monotonic()
            logger.info(described)
        if bar is not None:
            bar.show(progress, described)

    return listen


class _ProgressArtifact:
    """A bar in Prefect's UI, moved at most every ``ARTIFACT_EVERY_S``."""

    def __init__(self, stage: str) -> None:
        self._moved = time.monotonic()
        created = create_progress_artifact(progress=0.0, key=f"{stage}-progress", description=f"{stage}: starting")
        assert isinstance(created, UUID)  # a coroutine where an event loop runs; a sync task has none
        self._id = created

    def show(self, progress: Progress, described: str) -> None:
        """Move the bar if it is time, or if the stage is at its end."""
        share = 100.0 * progress.done / progress.total if progress.total else 0.0
        if share < 100.0 and time.monotonic() - self._moved < ARTIFACT_EVERY_S:
            return
        self._moved = time.monotonic()
        try:
            update_progress_artifact(self._id, progress=min(share, 100.0), description=described)
        except httpx.HTTPError as error:  # a bar is not worth a run of hours
            logging.getLogger(__name__).warning("progress could not be shown in Prefect: %s", error)


def publish(result: Result) -> None:
    """Publish the summary as a table and a link to the report."""
    if result.report is not None:
        link = link_to(result.report)
        create_link_artifact(link=link, link_text="Open the report", key="report", description=result.report)
        get_run_logger().info("The report is at %s", link)  # a link on the run's page, where artifacts are two clicks away
    if result.scores is not None:
        create_markdown_artifact(markdown=summary_table(result), key="summary", description="What came of the run")


def summary_table(result: Result) -> str:
    """The summary in Markdown: figures, baselines, and where everything lies."""
    summary = result.summary
    rows = [(name, summary.get(name)) for name in ("fvu", "l0", "dead_fraction", "dense_fraction", "ce_recovered")]
    rows += [
        (f"fvu on the baselines' rows: {name}", figures.get("fvu")) for name, figures in summary.get("baselines", {}).items()
    ]
    rows += [(f"{name} tokens/s", rate) for name, rate in summary["tokens_per_second"].items()]
    lines = ["| figure | value |", "|---|---|", *(f"| {name} | {_number(value)} |" for name, value in rows)]
    places = [f"* {name}: `{uri}`" for name, uri in result.by_result.items() if uri is not None]
    heading = [f"[Open the report]({link_to(result.report)})", ""] if result.report is not None else []
    return "\n".join([*heading, *lines, "", *places])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
