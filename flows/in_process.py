"""A pipeline that runs in this process, with its progress on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flows.addresses import Placed
from flows.config import PipelineConfig
from flows.console import OnConsole, listening, logged_to, say
from flows.pipeline import LAST_STAGE, Call, Result, run_pipeline
from tasks.progress import Listener


def run_in_process(config: PipelineConfig, until: str = LAST_STAGE) -> Result:
    """Run the stages up to ``until``; a line on stderr says where each result is.

    Raises:
        InputError: the settings, files or machine are not fit for the run; nothing was written.
        ArtifactError: a stored result is damaged.
    """
    with told() as (call, _):
        return run_pipeline(config, call, until)


@contextmanager
def told() -> Iterator[tuple[Call, Listener]]:
    """How stages are called and who hears of their progress, so that stderr tells it all until the block ends."""
    console = Console(stderr=True)
    with listening(console) as listener, logged_to(OnConsole(console)):
        yield _called(console, listener), listener


def _called(console: Console, listener: Listener) -> Call:
    """How a stage is run: with a line that says where its result is, and not at all where that is finished."""

    def call(stage: Placed) -> None:
        finished = stage.finished
        say(console, f"{stage.name}: {stage.out}{' (finished earlier)' if finished else ''}")
        if not finished:
            stage.run(listener)

    return call
