"""The train stage where rows do not stay, or are trained on window by window.

    harvest.keep: all       windows of rows that lie where they stay
    harvest.keep: none      rows are harvested for this training alone, and deleted when it is done
    harvest.keep: window    the same a window at a time, while training goes on

Rows, order and SAE are the same with all three, to the bit.
"""

from dataclasses import dataclass, replace

from typing_extensions import override

from flows.rolling.places import LakePlaces
from tasks.activations.disk_space import bytes_needed
from tasks.activations.manifest import SAMPLED
from tasks.activations.windows import WindowUris
from tasks.errors import InputError
from tasks.harvest.config import HarvestConfig
from tasks.harvest.stage import HarvestStage
from tasks.progress import Listener
from tasks.stage import Widths
from tasks.storage.artifacts import MANIFEST, read_manifest, require_manifest
from tasks.storage.objects import open_store
from tasks.train.config import TrainConfig
from tasks.train.source import RowSource
from tasks.train.stage import TrainStage


def require_cpus_for_both(harvest: HarvestConfig, train: TrainConfig, there: int) -> None:
    """Refuse what wants more CPUs than there are.

    Raises:
        InputError: it does.
    """
    actors = (harvest.actors or 1) * harvest.gpus_per_replica * harvest.cpus_per_actor
    workers = train.workers * train.cpus_per_worker
    if actors + workers > there:
        raise InputError(
            f"harvest.keep is window, so harvest and training run at once: they want {actors:g} and {workers:g} CPUs, but "
            f"the local Ray cluster has {there}. Lower harvest.actors or train.workers, or raise ray.num_cpus."
        )


def require_window_fits(harvest: HarvestStage, window_tokens: int | None, widths: Widths) -> None:
    """Refuse windows of more than ``harvest.window_bytes``, as far as is known before text is read.

    Raises:
        InputError: one window alone takes more.
    """
    settings = harvest.settings
    budget, tokens = settings.window_bytes or 0, max(window_tokens or 0, settings.shard_tokens)
    if harvest.most_tokens is not None:
        tokens = min(tokens, harvest.most_tokens)
    needed = bytes_needed(tokens, [widths[hook] for hook in settings.hooks], settings.dtype)
    if needed > budget:
        raise InputError(
            f"harvest.window_bytes is {budget:,}, but a window of {tokens:,} tokens takes {needed:,} bytes. Lower "
            "train.window_tokens (or harvest.shard_tokens), or raise harvest.window_bytes."
        )


@dataclass(frozen=True, kw_only=True)
class LakeStage(
    TrainStage,
    name="train",
    result="sae",
    folder="saes",
    version=TrainStage.version,
    is_long=True,
    reads=("activations", "tokens", "shards"),
):
    """Activations -> SAE, of rows some of which may be harvested here, and deleted again."""

    harvest: HarvestStage
    """How rows are harvested; it does not know where."""
    shards: str = ""
    """The pool of rows that stay."""

    @override
    def check(self) -> None:
        """Refuse a harvest and a training at once that want more CPUs than the local cluster has."""
        super().check()
        if self.harvest.settings.keep == "window" and self.settings.ray.address is None:
            require_cpus_for_both(self.harvest.settings, self.settings.train, self.settings.ray.cpus)

    @override
    def check_inputs(self, out: str, widths: Widths) -> Widths:
        """Refuse also windows that take more bytes than may be stored, before held-out rows are harvested."""
        widths = super().check_inputs(out, widths)
        if self.harvest.settings.keep == "window" and not self.finished(out):
            require_window_fits(self.harvest, self.settings.train.window_tokens, widths)
        return widths

    @override
    def finished(self, out: str) -> bool:
        """Whether the SAE is there, and the rows that do not stay are gone."""
        return super().finished(out) and LakePlaces(out).is_empty()

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Train, and delete what does not stay; killed anywhere, it goes on from there."""
        lake = LakePlaces(out)
        if read_manifest(out) is None:
            self._train(lake, listener)
        if consumed := lake.consumed(self.activations):
            lake.remember(self.activations, consumed)
        lake.clear()

    def _train(self, lake: LakePlaces, listener: Listener) -> None:
        from tasks.activations.hygiene import warn
        from tasks.train.ray_train import train

        for hook in self.settings.hooks.all:
            warn(self.activations, hook)
        is_whole = SAMPLED not in require_manifest(self.activations)
        if not is_whole and self.harvest.settings.keep == "window":
            self._roll(lake, listener)
            return
        rows, pool, windows = self.activations, self.shards, lake.windows_of_kept
        if not is_whole:
            rows, pool, windows = lake.activations(self.activations), lake.pool(self.shards), lake.windows
            whole = self.harvest.settings.model_copy(update={"keep": "all"})
            replace(self.harvest, settings=whole, tokens=self._tokens, shards=pool).run(rows, listener)
        source = RowSource(rows, self._sealed(windows, pool))
        train(self._begun(), self.activations, lake.sae, listener, self.tokens, source)

    def _sealed(self, windows: WindowUris, pool: str) -> WindowUris | None:
        """The windows of a finished harvest, where training is to go by windows."""
        from tasks.harvest.rolling.ledger import WindowLedger, seal_enough
        from tasks.harvest.rolling.plan import plan_windows
        from tasks.harvest.shards import planned_shards

        train, harvest = self.settings.train, self.harvest
        if train.window_tokens is None:
            return None
        planned = planned_shards(self._tokens, harvest.settings.shard_tokens)
        plan = plan_windows(planned, train.window_tokens, harvest.context_length)
        seal_enough(WindowLedger(windows, plan, pool, harvest.settings.dtype), train.n_steps, train.batch_tokens)
        return windows

    def _roll(self, lake: LakePlaces, listener: Listener) -> None:
        from flows.rolling.roll import Roll

        # Where harvest.keep was none before, this lists shards that windows delete; none would trust it again.
        open_store(lake.activations(self.activations)).delete(MANIFEST)
        Roll(lake, self._begun(), self.harvest, self.activations, self._tokens, self.shards).run(listener)

    @property
    def _tokens(self) -> str:
        """Where rows are harvested, there are tokens."""
        assert self.tokens is not None
        return self.tokens
