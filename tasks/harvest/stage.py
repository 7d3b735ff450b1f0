"""The second stage: activations of a model on tokens, or the user's own, as rows on storage."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from typing_extensions import override

from tasks.activations.manifest import require_hooks
from tasks.errors import InputError
from tasks.harvest.config import ActivationsConfig, HarvestConfig, fits_keep
from tasks.harvest.recipe import FIXED, FIXED_OF_MODEL, FIXED_OF_OWN, own_row_order, row_order
from tasks.harvest.sources import source_identity, source_shape
from tasks.hook_roles import OWN
from tasks.lm.config import ModelConfig
from tasks.lm.engines.version import engine_identity
from tasks.lm.files import model_identity
from tasks.progress import Listener
from tasks.ray_config import RayConfig
from tasks.recipe import differing
from tasks.stage import Recipe, Stage, StageProgress, Widths
from tasks.storage.artifacts import address, read_manifest, require_manifest


@dataclass(frozen=True, kw_only=True)
class HarvestStage(
    Stage, name="harvest", result="activations", folder="activations", version=3, is_long=True, reads=("tokens", "shards")
):
    """Tokens -> activations."""

    pool_version: ClassVar[int] = 2
    """Raised when the code comes to give other rows for the same settings."""

    settings: HarvestConfig
    model: ModelConfig
    cluster: RayConfig = field(default_factory=RayConfig)
    context_length: int
    """Tokens per sequence."""
    most_tokens: int | None = None
    """How many tokens there will be at most; None: nobody knows before they are counted."""
    tokens: str = ""
    shards: str = ""
    """The pool in which the harvests of one recipe, over any corpus, keep their shards."""

    @override
    def recipe(self) -> Recipe:
        """That of the shards, and the tokens."""
        return Recipe(self._rows().settings, (self.tokens, *self._rows().inputs))

    @override
    def places(self, root: str, name: str) -> dict[str, str]:
        """The activations, and the pool, which is named by the model alone: runs of other names and corpora share it."""
        rows = self._rows()
        pool = {"version": self.pool_version, **rows.settings}
        shards = address(root, "shards", _slug(self.model.label), pool, rows.inputs)
        return {"shards": shards, **super().places(root, name)}

    @override
    def check(self) -> None:
        """Refuse more actors than the local cluster will hold, and groups of an engine that makes its own."""
        parts, cpus = self.settings.gpus_per_replica, self.settings.cpus_per_actor
        if parts > 1 and self.model.engine != "transformers":
            raise InputError(
                f"harvest.gpus_per_replica is {parts}, but model.engine {self.model.engine} shares a model out itself. Set "
                f"harvest.gpus_per_replica to 1 and harvest.gpus_per_actor to {parts}."
            )
        if parts > 1:
            self.cluster.require_cpus("harvest.gpus_per_replica", parts, cpus)
        if self.settings.actors is not None:
            self.cluster.require_cpus("harvest.actors", self.settings.actors, parts * cpus)

    @override
    def check_inputs(self, out: str, widths: Widths) -> Widths:
        """Refuse a model that has no such hooks, an engine that lacks them, and sequences that are too long for it."""
        if self.finished(out):
            return _harvested_widths(out)
        # Imported here: torch and transformers take seconds, which a rerun of a finished harvest need not wait for.
        from tasks.lm.engines.blocks import check_engine
        from tasks.lm.hooks import hook_width
        from tasks.lm.limits import check_context
        from tasks.lm.load import load_skeleton
        from tasks.lm.parallel import require_parts

        skeleton = load_skeleton(self.model, as_run=True)
        require_parts(skeleton, self.settings.gpus_per_replica)
        check_context(skeleton, self.context_length)
        widths = {hook: hook_width(skeleton, hook) for hook in self.settings.hooks}
        check_engine(self.model, skeleton, self.settings.hooks)
        return widths

    @override
    def finished(self, out: str) -> bool:
        """Whether all rows are there that are to be kept."""
        return fits_keep(read_manifest(out), self.settings.keep)

    @override
    def progress(self, out: str) -> StageProgress | None:
        """Shards of this corpus that are there, be they of its own harvest or of an earlier one."""
        from tasks.harvest.kept import kept_shards
        from tasks.harvest.shards import committed, planned_shards

        if read_manifest(self.tokens) is None:
            return None
        planned = planned_shards(self.tokens, self.settings.shard_tokens)
        wanted = {shard.commit_key for shard in kept_shards(planned, self.settings)}
        there = committed(self.shards) & wanted
        return StageProgress(len(there), len(wanted), "shards") if there else None

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Harvest."""
        from tasks.harvest.ray_harvest import harvest

        harvest(self.settings, self.model, self.cluster, self.tokens, self.shards, out, listener, self.order)

    @property
    def order(self) -> str:
        """Hex digits that seed the order of rows within shards."""
        return row_order(self.settings, self.model, model_identity(self.model))

    def _rows(self) -> Recipe:
        """What decides the rows of a shard, whatever the corpus that it is of."""
        settings = {
            "harvest": differing(self.settings, FIXED, HarvestConfig.not_in_recipe),
            "model": differing(self.model, FIXED_OF_MODEL, ModelConfig.not_in_recipe) | engine_identity(self.model),
        }
        return Recipe(settings, (model_identity(self.model),))


@dataclass(frozen=True, kw_only=True)
class IngestStage(Stage, name="harvest", result="activations", folder="activations", version=3, is_long=True):
    """The user's own rows -> activations."""

    settings: ActivationsConfig
    shard_rows: int
    """Rows of the source per shard."""
    row_group_rows: int
    """Rows per Parquet row group."""

    @override
    def recipe(self) -> Recipe:
        """Settings, how rows are cut, and the source's content."""
        settings = differing(self.settings, FIXED_OF_OWN, ActivationsConfig.not_in_recipe)
        cut = {"shard_tokens": self.shard_rows, "row_group_rows": self.row_group_rows}
        changed = {name: rows for name, rows in cut.items() if rows != FIXED[name]}
        return Recipe({"activations": settings, "harvest": changed}, (source_identity(self.settings),))

    @override
    def places(self, root: str, name: str) -> dict[str, str]:
        """The activations, which keep their shards beside their manifest."""
        (activations,) = super().places(root, name).values()
        return {"shards": activations, self.result: activations}

    @override
    def check_inputs(self, out: str, widths: Widths) -> Widths:
        """Refuse a source that is no matrix of activations."""
        if self.finished(out):
            return _harvested_widths(out)
        _, d_in = source_shape(self.settings)
        return {OWN: d_in}

    @override
    def progress(self, out: str) -> StageProgress | None:
        """Shards that are there; how many there will be is known when the rows have been counted."""
        from tasks.harvest.shards import committed

        there = committed(out)
        return StageProgress(len(there), None, "shards") if there else None

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Ingest."""
        from tasks.harvest.ingest import Cut, ingest

        order = own_row_order(self.settings, self.shard_rows, self.row_group_rows, source_identity(self.settings))
        ingest(self.settings, Cut(self.shard_rows, self.row_group_rows), out, listener, order)


def _harvested_widths(out: str) -> Widths:
    return {hook: int(found["d_in"]) for hook, found in require_hooks(out, require_manifest(out)).items()}


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", label.rpartition("/")[2].lower()).strip("-") or "model"
