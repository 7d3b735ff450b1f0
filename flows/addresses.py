"""Where everything that a configuration makes will lie, known before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from flows.config import PipelineConfig
from flows.resolve import resolved
from flows.stages import score_stage, stages
from tasks.progress import Listener
from tasks.stage import Stage
from tasks.storage.artifacts import address
from tasks.storage.objects import open_store

Uri = TypeVar("Uri", bound=str | None)
# Raised when the comparison comes to say something else of the same SAEs.
_SWEEPS = 2


@dataclass(frozen=True, slots=True)
class ResultUris(Generic[Uri]):
    """URIs of a run's results."""

    by_result: Mapping[str, Uri]
    """By what a stage's result is called, in the order of the stages."""

    @property
    def tokens(self) -> Uri | None:
        """None where the activations are the user's own."""
        return self.by_result.get("tokens")

    @property
    def activations(self) -> Uri:
        """Rows that SAEs are trained on, or the list of them."""
        return self.by_result["activations"]

    @property
    def sae(self) -> Uri:
        """The trained SAE."""
        return self.by_result["sae"]

    @property
    def scores(self) -> Uri:
        """The scores of its latents."""
        return self.by_result["scores"]

    @property
    def report(self) -> Uri:
        """The page that shows them."""
        return self.by_result["report"]


class Addresses(ResultUris[str]):
    """Absolute URIs of all stages' directories, finished or not."""

    __slots__ = ()

    @property
    def shards(self) -> str:
        """The pool in which the harvests of one recipe, over any corpus, keep their shards; own activations keep theirs."""
        return self.by_result["shards"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A stage that knows where it reads, and where it writes."""

    stage: Stage
    out: str

    @property
    def name(self) -> str:
        """As commands and logs call it."""
        return self.stage.name

    @property
    def result(self) -> str:
        """As its result is called where results are listed."""
        return self.stage.result

    @property
    def is_long(self) -> bool:
        """Whether it may take days."""
        return self.stage.is_long

    @property
    def finished(self) -> bool:
        """Whether the result is there, whole."""
        return self.stage.finished(self.out)

    def run(self, listener: Listener) -> None:
        """Make the result, or do nothing where it is finished."""
        try:
            self.stage.run(self.out, listener)
        except SystemError as error:
            # What a signal handler raises while Ray waits in C++ arrives as the cause of a SystemError (ray 2.60), which
            # Prefect would take for a failure and try the stage again rather than cancel the run.
            if error.__cause__ is None or isinstance(error.__cause__, Exception):
                raise
            raise error.__cause__ from None


def addresses(config: PipelineConfig) -> Addresses:
    """The addresses of a configuration; reads the inputs' bytes (they are hashed) and nothing of the results.

    Raises:
        InputError: a corpus, model or source of activations is not there.
    """
    config = resolved(config)
    root = open_store(config.storage).uri
    found: dict[str, str] = {}
    for stage in stages(config):
        found |= stage.reading(found).places(root, config.name)
    return Addresses(found)


def placed(config: PipelineConfig, at: Addresses) -> Sequence[Placed]:
    """The stages of a configuration, in order, at these addresses."""
    return [Placed(stage.reading(at.by_result), at.by_result[stage.result]) for stage in stages(config)]


def sweep_address(config: PipelineConfig, saes: Sequence[str]) -> str:
    """Where the comparison of a sweep's SAEs lies, which are given by their addresses."""
    settings = score_stage(config).recipe().settings
    return address(open_store(config.storage).uri, "sweeps", config.name, {"version": _SWEEPS, **settings}, saes)
