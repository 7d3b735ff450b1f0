"""The third stage: an SAE trained on activations."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from typing_extensions import override

from tasks.errors import InputError
from tasks.hook_roles import HookRoles
from tasks.machine import gib, memory_bytes
from tasks.progress import Listener
from tasks.ray_config import RayConfig
from tasks.sae.config import SAEConfig
from tasks.stage import Recipe, Stage, StageProgress, Widths
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tasks.train.config import TrainConfig
from tasks.train.recipe import training_recipe
from tasks.train.run_settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """Activations -> SAE."""

    name: ClassVar[str] = "train"
    result: ClassVar[str] = "sae"
    folder: ClassVar[str] = "saes"
    version: ClassVar[int] = 2
    is_long: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("activations", "tokens")

    settings: TrainConfig
    sae: SAEConfig
    hooks: HookRoles
    model: str | None = None
    """Name of the model whose activations they are; None where they are the user's own."""
    revision: str | None = None
    """The model's revision on the hub, where one was asked for."""
    cluster: RayConfig = field(default_factory=RayConfig)
    shown: Mapping[str, Any] = field(default_factory=dict)
    """Settings of other stages by group, which loggers show beside these."""
    activations: str = ""
    tokens: str | None = None
    """By which it is told how well documents are mixed; None: there are none."""

    @override
    def recipe(self) -> Recipe:
        """Settings of the SAE and of its training, and the activations."""
        settings = training_recipe(self.settings, self.sae)
        return Recipe({**settings, "hooks": self.hooks.to_json()}, (self.activations,))

    @property
    def run_settings(self) -> RunSettings:
        """What the training run itself is given."""
        return RunSettings(
            sae=self.sae,
            train=self.settings,
            hooks=self.hooks,
            model=self.model,
            revision=self.revision,
            ray=self.cluster,
            shown=self.shown,
        )

    @override
    def check(self) -> None:
        """Refuse more workers than this machine has CPUs or GPUs for, and loggers that are not installed."""
        self.cluster.require_cpus("train.workers", self.settings.least_workers, self.settings.cpus_per_worker)
        self._check_gpus()
        if any(name is not None for name in (self.settings.tensorboard, self.settings.mlflow, self.settings.wandb)):
            from tasks.train.loggers import check_loggers  # imports torch

            check_loggers(self.settings)

    @override
    def check_inputs(self, out: str, widths: Widths) -> Widths:
        """Refuse an SAE of another width than the activations, or one that this machine could not hold."""
        d_in, d_out = (sum(widths[hook] for hook in hooks) for hooks in (self.hooks.inputs, self.hooks.outputs))
        if self.sae.d_in not in (None, d_in):
            hooks = " + ".join(self.hooks.inputs)
            raise InputError(
                f"sae.d_in is {self.sae.d_in} but {hooks} is {d_in} wide. Leave sae.d_in empty or set it to {d_in}."
            )
        if not self.finished(out):
            self._check_memory(d_in, d_out)
        return widths

    @override
    def progress(self, out: str) -> StageProgress | None:
        """Tokens seen up to the newest checkpoint."""
        if super().progress(out) is None:
            return None
        done = _checkpointed_steps(open_store(out)) * self.settings.batch_tokens
        return StageProgress(done, self.settings.tokens, "tokens")

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Say what speaks against training on these activations, and train."""
        from tasks.activations.hygiene import warn
        from tasks.train.ray_train import train

        if not self.finished(out):
            for hook in self.hooks.all:
                warn(self.activations, hook)
        train(self.run_settings, self.activations, out, listener, self.tokens)

    def _check_gpus(self) -> None:
        """Refuse training on GPUs that the local cluster will not have; a cluster that is joined says so itself."""
        if self.cluster.address is not None or not self.settings.use_gpu:
            return
        import torch  # takes seconds

        there, least = torch.cuda.device_count(), self.settings.least_workers
        if there == 0:
            raise InputError(
                "train.use_gpu is on, but PyTorch finds no GPU on this machine. Turn it off, or join a cluster that has "
                "GPUs (ray.address)."
            )
        if least > there:
            raise InputError(
                f"train.use_gpu is on and training wants {least} workers with a GPU each, but this machine has {there}. "
                "Lower train.workers (or train.min_workers), or turn train.use_gpu off."
            )

    def _check_memory(self, d_in: int, d_out: int) -> None:
        """Refuse an SAE whose weights and two moments of Adam alone, in float32, this machine could not hold.

        Of a cluster that is joined, nothing is known here; with GPUs, it is their memory that counts.
        """
        there = memory_bytes()
        if self.cluster.address is not None or self.settings.use_gpu or there is None:
            return
        needed = 3 * 4 * (d_in + d_out + 1) * self.sae.d_sae
        if needed > there:
            raise InputError(
                f"sae.d_sae is {self.sae.d_sae:,}, whose weights and Adam's moments take {gib(needed)} at d_in {d_in:,}, "
                f"but this machine has {gib(there)} of memory. Lower sae.d_sae, or join a cluster (ray.address)."
            )


def _checkpointed_steps(store: ObjectStore) -> int:
    """The step of the last checkpoint on storage, 0 where there is none."""
    names = (re.search(r"step[-_](\d+)", info.key) for info in store.list("checkpoints/"))
    return max((int(name.group(1)) for name in names if name), default=0)
