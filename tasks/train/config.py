"""How the SAE is trained."""

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from tasks.settings import LEAST_CPUS, MOST, MOST_PROCESSES, HookName, PathText, Seed, Settings

OF_WARM_START = frozenset({"init_lr_factor", "init_warmup_fraction"})
"""Settings that are read only where training begins from an SAE."""
OF_COLD_START = frozenset({"warmup_fraction"})
"""Settings that are not read there."""


class TrainConfig(Settings):
    """Length, schedule and workers of the training run; lengths are in tokens (rows)."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset(
        {
            "init_from",
            "workers",
            "min_workers",
            "latent_shards",
            "cpus_per_worker",
            "use_gpu",
            "checkpoint_every_tokens",
            "keep_checkpoints",
            "max_failures",
            "max_hours",
            "price_per_hour",
            "tensorboard",
            "mlflow",
            "wandb",
        }
    )

    tokens: int = Field(1_000_000, ge=1, le=MOST)
    """Rows seen in all, over as many epochs as that takes."""
    batch_tokens: int = Field(1024, ge=1, lt=2**31)
    """Rows per step, over all workers together."""
    lr: float | None = Field(None, gt=0, le=1e30)
    """Peak learning rate. Empty: chosen from the width and the length of the run."""
    warmup_fraction: float = Field(0.05, ge=0, le=1)
    """Share of the run over which the learning rate rises from 0."""
    decay_fraction: float = Field(0.7, ge=0, le=1)
    """Share of the run, at its end, over which the learning rate falls to 0, in which short runs gain most."""
    adam_beta2: float | None = Field(None, ge=0, lt=1)
    """Decay per step of Adam's mean of squared gradients. Empty: chosen from the length of the run, at most .999."""
    dead_after_tokens: int | None = Field(None, ge=1, le=MOST)
    """A latent silent for this many tokens counts as dead in training. Empty: chosen from the length of the run."""
    sparsity_warmup_fraction: float | None = Field(None, ge=0, le=1)
    """Share of the run over which a sparsity coefficient rises from 0. Empty: the architecture's own, usually as long as
    the learning rate's."""
    k_anneal_fraction: float = Field(0.5, ge=0, le=1)
    """Share of the run over which sae.k_start falls to sae.k."""
    max_grad_norm: float | None = Field(None, gt=0, le=1e30)
    """Clip gradients to this norm. Empty: the architecture's own (none for topk, batchtopk, matryoshka, jumprelu and
    jumprelu_l0, else 1)."""
    ema_decay: float = Field(0, ge=0, lt=1)
    """Decay per step of a moving average of the weights, which then is the result. 0: the last weights are."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the encoder's matrix product, and on a GPU of the weights that codes are decoded by; master weights are
    float32. auto: bf16 where the machines that train multiply it fast, else fp32."""
    seed: Seed = 0
    """Seed of the order of the data, and of the initial weights."""
    init_seed: Seed | None = None
    """Seed of the initial weights alone. Empty: train.seed."""
    init_from: PathText | None = Field(None, min_length=1)
    """URI of a finished SAE to begin from, trained or imported: of the same architecture, width and hooks. Latents that do
    not fire any more are drawn anew. Empty: from drawn weights."""
    init_lr_factor: float = Field(0.5, gt=0, le=1000)
    """What the learning rate is multiplied by where training begins from an SAE (train.init_from)."""
    init_warmup_fraction: float = Field(0.15, ge=0, le=1)
    """Share of the run over which the learning rate rises from 0 where training begins from an SAE."""
    hook: HookName | None = None
    """Which of harvest.hooks to train on. Empty: the first."""
    hooks: tuple[HookName, ...] = ()
    """Several of harvest.hooks whose activations one set of latents codes together (a crosscoder). Empty: train.hook."""
    target_hook: HookName | None = None
    """Which of harvest.hooks to rebuild from train.hook's activations (a transcoder). Empty: train.hook itself."""
    window_tokens: int | None = Field(None, ge=1, le=MOST)
    """Train on one window of the harvest after another, each of about so many tokens, whose rows are shuffled among
    themselves; the first one's statistics scale all. Empty: rows of the whole harvest are shuffled, but with harvest.keep
    window as many tokens make a window as fill a quarter of harvest.window_bytes."""
    lanes: int = Field(16, ge=1, le=MOST_PROCESSES)
    """Virtual lanes that the data is dealt to: batches do not depend on the number of workers."""
    workers: int = Field(2, ge=1, le=MOST_PROCESSES)
    """Training processes; must divide lanes."""
    min_workers: int | None = Field(None, ge=1, le=MOST_PROCESSES)
    """Processes that are enough to train with while the Ray cluster has no room for all, as when it has lost a machine; it
    grows from its last checkpoint when there is room again. Those that lanes cannot be dealt to evenly wait. Empty: all."""
    latent_shards: int = Field(1, ge=1, le=MOST_PROCESSES)
    """Parts that the latents are cut into, each on its own workers: weights and optimizer take as much less memory on each.
    Must divide workers and sae.d_sae; workers / latent_shards of them share the rows of a batch."""
    cpus_per_worker: float = Field(1, ge=LEAST_CPUS, le=4096)
    """CPUs that each worker reserves, and its torch threads."""
    use_gpu: Literal["auto", True, False] = "auto"
    """Give each worker a GPU. auto: where the Ray cluster has GPUs, of compute capability 7.5 or later, by no more workers
    than GPUs. A run that has begun stays on the kind of device on which it began."""
    checkpoint_every_tokens: int | None = Field(None, ge=1, le=MOST)
    """Tokens between checkpoints. Empty: a tenth of the run."""
    keep_checkpoints: int = Field(2, ge=1, le=1_000_000)
    """Checkpoints kept on storage."""
    max_failures: int = Field(3, ge=0, le=1_000_000)
    """Restarts from the last checkpoint, after lost workers, before the run stops."""
    max_hours: float | None = Field(None, gt=0, le=1e6)
    """Stop with a checkpoint after so many hours of steps; the same command goes on, for as long again. Empty: never."""

    price_per_hour: float | None = Field(None, ge=0, le=1e12)
    """What an hour of all workers together costs, in any currency, to tell the cost of a million tokens."""
    tensorboard: PathText | None = Field(None, min_length=1)
    """Folder for TensorBoard's event files, on the machine of the first worker; each run gets a folder below it. Empty: none
    are written. Needs pip install 'saemill[tensorboard]'."""
    mlflow: str | None = Field(None, min_length=1)
    """Tracking URI of MLflow, such as http://host:5000 or sqlite:///mlflow.db; runs appear in its experiment 'saemill'.
    Empty: none are logged. Needs pip install 'saemill[mlflow]'."""
    wandb: str | None = Field(None, min_length=1)
    """Project of Weights & Biases; its own environment variables hold the key and the mode (WANDB_MODE=offline: only files,
    for wandb sync). Empty: none are logged. Needs pip install 'saemill[wandb]'."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.lanes % self.workers:
            fits = [w for w in range(1, self.lanes + 1) if self.lanes % w == 0]
            raise ValueError(f"train.workers is {self.workers} but must divide train.lanes ({self.lanes}): one of {fits}.")
        if self.workers % self.latent_shards:
            raise ValueError(f"train.latent_shards is {self.latent_shards} but must divide train.workers ({self.workers}).")
        if not self.latent_shards <= self.least_workers <= self.workers:
            raise ValueError(
                f"train.min_workers is {self.least_workers} but must be between train.latent_shards ({self.latent_shards}) "
                f"and train.workers ({self.workers})."
            )
        if self.batch_tokens % self.lanes:
            raise ValueError(
                f"train.batch_tokens is {self.batch_tokens} but must be a multiple of train.lanes ({self.lanes})."
            )
        if self.batch_tokens > self.tokens:
            raise ValueError(
                f"train.tokens is {self.tokens} but must be at least one batch (train.batch_tokens = {self.batch_tokens})."
            )
        if self.hooks and (self.target_hook is not None or self.hook is not None):
            other = "train.target_hook" if self.target_hook is not None else "train.hook"
            raise ValueError(f"train.hooks and {other} are both set. A crosscoder rebuilds its own hooks: clear {other}.")
        if len({*self.hooks}) != len(self.hooks):
            raise ValueError(f"train.hooks is {list(self.hooks)} but must name each hook once.")
        if self.warmup + self.decay_fraction > 1:
            name = "warmup_fraction" if self.init_from is None else "init_warmup_fraction"
            raise ValueError(
                f"train.{name} + train.decay_fraction is {self.warmup + self.decay_fraction:g} but must be at most 1."
            )
        return self

    @property
    def warmup(self) -> float:
        """Share of the run over which the learning rate rises from 0."""
        return self.warmup_fraction if self.init_from is None else self.init_warmup_fraction

    @property
    def least_workers(self) -> int:
        """Fewest processes that a run starts or goes on with."""
        return self.workers if self.min_workers is None else self.min_workers

    @property
    def on_gpus(self) -> bool:
        """Whether each worker gets a GPU; ``auto`` is settled where training begins (``tasks.train.device``)."""
        return self.use_gpu is True

    def at_work(self, n_workers: int) -> int:
        """How many of so many processes train: as many as lanes and parts of the latents can be dealt to evenly."""
        return self.dealt_evenly(n_workers) or n_workers

    def dealt_evenly(self, most: int) -> int:
        """The largest number of processes, up to ``most``, that lanes and parts of the latents can be dealt to; 0: none."""
        fits = (n for n in range(most, 0, -1) if self.lanes % n == 0 and n % self.latent_shards == 0)
        return next(fits, 0)

    @property
    def n_steps(self) -> int:
        """Steps of the run."""
        return math.ceil(self.tokens / self.batch_tokens)

    @property
    def weights_seed(self) -> int:
        """Seed of the initial weights."""
        return self.seed if self.init_seed is None else self.init_seed

    @override
    def recipe(self) -> dict[str, Any]:
        """As of all settings; naming the seed that the weights would have anyway makes no other SAE, nor does no window."""
        settings = super().recipe()
        if self.weights_seed == self.seed:
            del settings["init_seed"]
        for name in OF_COLD_START if self.init_from is not None else OF_WARM_START:
            del settings[name]
        if self.window_tokens is None:
            del settings["window_tokens"]
        return settings
