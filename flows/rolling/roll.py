"""Harvest and training at once: rows go as soon as they have been trained on."""

import logging
from dataclasses import dataclass, replace

from flows.rolling.beside import Beside
from flows.rolling.places import LakePlaces
from tasks.harvest.kept import kept_shards
from tasks.harvest.pool.actor import HarvestJob
from tasks.harvest.ray_harvest import job_of
from tasks.harvest.rolling.ledger import WindowLedger
from tasks.harvest.rolling.plan import plan_windows, windows_at_once
from tasks.harvest.rolling.ray_rolling import actors_beside, roll
from tasks.harvest.rolling.rolling import Rolling
from tasks.harvest.shards import planned_shards
from tasks.harvest.stage import HarvestStage
from tasks.lm.hooks import hook_width
from tasks.lm.load import load_skeleton
from tasks.progress import Listener, Progress
from tasks.ray_cluster import connect
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS, furthest_whole
from tasks.train.job.ray_device import on_its_device
from tasks.train.ray_train import train
from tasks.train.run_settings import RunSettings
from tasks.train.source import RowSource

logger = logging.getLogger("tasks.rolling")  # below "tasks", whose records are shown


@dataclass(frozen=True, slots=True)
class Roll:
    """One training with its harvest."""

    lake: LakePlaces
    settings: RunSettings
    harvest: HarvestStage
    activations: str
    """The held-out rows, and a sample of training rows."""
    tokens: str
    shards: str
    """The pool of rows that stay."""

    def run(self, listener: Listener) -> None:
        """Train from window to window.

        Raises:
            InputError: the budget, the cluster or settings do not fit; or rows do not fit the storage dtype.
            ArtifactError: something stored is damaged.
            SaemillError: shards were given up, or workers were lost more often than train.max_failures.
        """
        connect(self.settings.ray)
        training = replace(self.settings, train=on_its_device(self.settings.train, self.settings.ray, self.lake.sae))
        job, rolling = self._rolling(training)
        source = RowSource(self.activations, rolling.ledger.windows, is_rolling=True)

        def tell(progress: Progress) -> None:
            # How many tokens it takes is known only when all masks are: about as many as training sees.
            listener(replace(progress, total=max(progress.done + 1, training.train.tokens)))

        with Beside(lambda stopped, told: roll(job, rolling, told, stopped), tell) as harvest:
            harvest.until(lambda: rolling.ledger.rows(0) is not None)
            train(training, self.activations, self.lake.sae, listener, self.tokens, source, harvest.look)

    def _rolling(self, training: RunSettings) -> tuple[HarvestJob, Rolling]:
        """What actors are told, and the windows that they harvest."""
        config, settings = training.train, self.harvest.settings
        assert config.window_tokens is not None  # harvest.keep window settles it
        skeleton = load_skeleton(self.harvest.model)
        widths = [hook_width(skeleton, hook) for hook in settings.hooks]
        gpus = config.workers if config.on_gpus else 0
        actors = actors_beside(settings, config.workers * config.cpus_per_worker, gpus)
        planned, context = planned_shards(self.tokens, settings.shard_tokens), self.harvest.context_length
        windows = plan_windows(planned, config.window_tokens, context)
        tokens = context * sum(shard.n_sequences for window in windows for shard in window)
        passes = 1 + config.tokens // max(1, tokens)
        at_once = windows_at_once(windows, kept_shards(planned, settings), widths, settings, context, actors, passes)
        self._tell(config.window_tokens, len(windows), at_once)
        pool = self.lake.pool(self.shards)
        job = job_of(
            settings.model_copy(update={"actors": actors}),
            self.harvest.model,
            self.tokens,
            pool,
            widths,
            self.harvest.order,
        )
        rolling = Rolling(
            ledger=WindowLedger(self.lake.windows, windows, pool, settings.dtype),
            at_once=at_once,
            context_length=context,
            batch_rows=config.batch_tokens,
            n_steps=config.n_steps,
            passed=lambda: furthest_whole(open_store(self.lake.sae), f"{CHECKPOINTS}/"),
        )
        return job, rolling

    def _tell(self, tokens: int, n_windows: int, at_once: int) -> None:
        logger.info(
            "training rows are harvested as training needs them, in %s windows of up to %s tokens, %s at once; "
            "train.window_tokens=%s gives the same order with harvest.keep=all",
            f"{n_windows:,}",
            f"{tokens:,}",
            at_once,
            tokens,
        )
        if at_once == 1:
            logger.warning(
                "one window fits harvest.window_bytes, so harvest and training take turns; with room for two they would not"
            )
