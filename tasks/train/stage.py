"""The third stage: an SAE trained on activations."""

import re
from dataclasses import dataclass, replace

from typing_extensions import override

from tasks.errors import InputError
from tasks.machine import gib, memory_bytes
from tasks.machines import machines_of
from tasks.progress import Listener
from tasks.sae.content import content_of
from tasks.stage import Recipe, Stage, StageProgress, Widths
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tasks.train.device import trains_on_gpus
from tasks.train.init_fit import require_same_sizes
from tasks.train.recipe import training_recipe
from tasks.train.run_settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage, name="train", result="sae", folder="saes", version=2, is_long=True, reads=("activations", "tokens")):
    """Activations -> SAE."""

    settings: RunSettings
    activations: str = ""
    tokens: str | None = None
    """By which it is told how well documents are mixed; None: there are none."""

    @override
    def recipe(self) -> Recipe:
        """Settings of the SAE and of its training, and the activations."""
        settings, first = training_recipe(self.settings.train, self.settings.sae), self.settings.train.init_from
        begun_from = () if first is None else (content_of(first),)
        return Recipe({**settings, "hooks": self.settings.hooks.to_json()}, (self.activations, *begun_from))

    @override
    def check(self) -> None:
        """Refuse more workers than this machine has CPUs or GPUs for, and loggers that are not installed."""
        train = self.settings.train
        self.settings.ray.require_cpus("train.workers", train.least_workers, train.cpus_per_worker)
        self._check_gpus()
        if any(name is not None for name in (train.tensorboard, train.mlflow, train.wandb)):
            from tasks.train.loggers import check_loggers  # imports torch

            check_loggers(train)

    @override
    def check_inputs(self, out: str, widths: Widths) -> Widths:
        """Refuse an SAE of another width than the activations, or one that this machine could not hold."""
        sae, hooks = self.settings.sae, self.settings.hooks
        d_in, d_out = (sum(widths[hook] for hook in side) for side in (hooks.inputs, hooks.outputs))
        if sae.d_in not in (None, d_in):
            read = " + ".join(hooks.inputs)
            raise InputError(f"sae.d_in is {sae.d_in} but {read} is {d_in} wide. Leave sae.d_in empty or set it to {d_in}.")
        if not self.finished(out):
            if self.settings.train.init_from is not None:
                require_same_sizes(self.settings, d_in)
            self._check_memory(d_in, d_out)
        return widths

    @override
    def progress(self, out: str) -> StageProgress | None:
        """Tokens seen up to the newest checkpoint."""
        if super().progress(out) is None:
            return None
        done = _checkpointed_steps(open_store(out)) * self.settings.train.batch_tokens
        return StageProgress(done, self.settings.train.tokens, "tokens")

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Say what speaks against training on these activations, and train."""
        from tasks.activations.hygiene import warn
        from tasks.train.ray_train import train

        if not self.finished(out):
            for hook in self.settings.hooks.all:
                warn(self.activations, hook)
        train(self._begun(), self.activations, out, listener, self.tokens)

    def _begun(self) -> RunSettings:
        """The settings with what the SAE is that training begins from, by an URI that holds in any folder."""
        first = self.settings.train.init_from
        if first is None:
            return self.settings
        train = self.settings.train.model_copy(update={"init_from": open_store(first).uri})
        return replace(self.settings, train=train, init_content=content_of(first))

    def _check_gpus(self) -> None:
        """Refuse training on GPUs that the local cluster will not have; a cluster that is joined says so itself."""
        if self.settings.ray.address is not None or not self.settings.train.on_gpus:
            return
        import torch  # takes seconds

        there, least = torch.cuda.device_count(), self.settings.train.least_workers
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
        there, d_sae = memory_bytes(), self.settings.sae.d_sae
        if self.settings.ray.address is not None or there is None:
            return
        needed = 3 * 4 * (d_in + d_out + 1) * d_sae
        if needed > there and not trains_on_gpus(self.settings.train, machines_of(self.settings.ray)):
            raise InputError(
                f"sae.d_sae is {d_sae:,}, whose weights and Adam's moments take {gib(needed)} at d_in {d_in:,}, "
                f"but this machine has {gib(there)} of memory. Lower sae.d_sae, or join a cluster (ray.address)."
            )


def _checkpointed_steps(store: ObjectStore) -> int:
    """The step of the last checkpoint on storage, 0 where there is none."""
    names = (re.search(r"step[-_](\d+)", info.key) for info in store.list("checkpoints/"))
    return max((int(name.group(1)) for name in names if name), default=0)
