"""What a training run will do, resolved before its first step: lengths in steps, learning rate, dead-latent window."""

import math
from dataclasses import dataclass, replace

from tasks.precision import for_training, here
from tasks.sae.architectures.registry import architecture, layout
from tasks.sae.config import SAEConfig
from tasks.sae.parameters import Layout
from tasks.train.config import TrainConfig

CURVE_ROWS = 250
"""About how many rows the training curve gets."""
RESAMPLE_AT = (0.2, 0.35, 0.5, 0.65)
"""Shares of the run after which dead latents are drawn anew, where the architecture does; new ones need time to settle.

The source's 25, 50, 75 and 100 thousand steps are the first part of runs of a million.
"""
STEERED_WARMUP = 0.3
"""Share of the run over which l0 falls to k where the sparsity coefficient is steered; the rest is for settling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One run's settings with nothing left open; the same on every worker."""

    sae: SAEConfig
    layout: Layout
    batch_rows: int
    """Rows per step, over all workers."""
    n_steps: int
    lr: float
    """Peak learning rate."""
    warmup_steps: float
    decay_steps: float
    betas: tuple[float, float]
    """Adam's."""
    dead_after: int
    """Rows without firing after which a latent counts as dead."""
    sparsity_steps: float
    """Steps over which the sparsity coefficient rises."""
    k_steps: float
    """Steps over which k falls to where it ends."""
    resample_at: frozenset[int]
    """Steps before which dead latents are drawn anew."""
    max_grad_norm: float | None
    ema_decay: float
    """Of the moving average of weights that is kept in place of the last ones; 0: none is."""
    bf16: bool
    seed: int
    """Of the initial weights, and of the rows that dead latents are drawn from."""
    log_every: int
    """Steps per row of the curve."""
    checkpoint_every: int
    """Steps between checkpoints, a multiple of ``log_every``."""

    def lr_at(self, step: int) -> float:
        """Learning rate of a step counted from 0: linear warm-up, constant, linear decay to (just above) 0."""
        return self.lr * min(_ramp(step + 1, self.warmup_steps), _ramp(self.n_steps - step, self.decay_steps))

    def sparsity_at(self, step: int) -> float:
        """Share of the sparsity coefficient in force at a step."""
        return _ramp(step + 1, self.sparsity_steps)

    def k_at(self, step: int) -> int:
        """Latents per row in force at a step, falling linearly where the SAE says where to start."""
        k, start = self.sae.k, self.sae.k_start
        return k if start is None else round(start + (k - start) * _ramp(step, self.k_steps))


def plan(sae: SAEConfig, train: TrainConfig, d_in: int, d_out: int | None = None) -> Plan:
    """Resolve settings; what is left empty follows the length of the run.

    ``d_out`` is the width of what is rebuilt, where that is not the input.
    """
    n_steps = train.n_steps
    kind, sae = architecture(sae.arch), replace(sae, d_in=d_in)
    if sae.bandwidth is None:
        sae = replace(sae, bandwidth=kind.bandwidth(d_in, n_steps))
    # An SAE that is begun from is sparse already.
    usual = 0.0 if train.init_from is not None else STEERED_WARMUP if kind.steers(sae) else kind.sparsity_warmup
    sparsity_share = _first(train.sparsity_warmup_fraction, usual)
    lr = train.lr if train.lr is not None else default_lr(sae, n_steps)
    log_every = max(1, n_steps // CURVE_ROWS)
    checkpoint_tokens = train.checkpoint_every_tokens or math.ceil(train.tokens / 10)
    logs_per_checkpoint = max(1, math.ceil(checkpoint_tokens / (train.batch_tokens * log_every)))
    return Plan(
        sae=sae,
        layout=layout(sae, d_in, d_out),
        batch_rows=train.batch_tokens,
        n_steps=n_steps,
        lr=lr if train.init_from is None else lr * train.init_lr_factor,
        warmup_steps=train.warmup * n_steps,
        decay_steps=train.decay_fraction * n_steps,
        betas=(kind.beta1, default_beta2(n_steps) if train.adam_beta2 is None else train.adam_beta2),
        dead_after=train.dead_after_tokens or default_dead_after(sae, train.tokens),
        sparsity_steps=(train.warmup if sparsity_share is None else sparsity_share) * n_steps,
        k_steps=train.k_anneal_fraction * n_steps,
        resample_at=frozenset(round(share * n_steps) for share in RESAMPLE_AT) if kind.resamples else frozenset(),
        max_grad_norm=_first(train.max_grad_norm, kind.max_grad_norm),
        ema_decay=train.ema_decay,
        bf16=_bf16(train),
        seed=train.weights_seed,
        log_every=log_every,
        checkpoint_every=logs_per_checkpoint * log_every,
    )


def default_lr(sae: SAEConfig, n_steps: int) -> float:
    """Peak learning rate for a width and a length: the architecture's own at d_sae 4608 and 1,000 steps.

    With width it falls as 1 / sqrt(d_sae) (https://arxiv.org/abs/2406.04093), with length as the fourth root, which
    joins what is best here for 1,000 steps to 2e-4 / sqrt(d_sae / 2^14), the usual value, for millions; an architecture
    may say that it falls otherwise.
    """
    kind, narrowness = architecture(sae.arch), 4608 / sae.d_sae
    width = math.sqrt(narrowness if kind.lr_follows_width else min(1.0, narrowness))
    length: float = (1000 / max(n_steps, 250)) ** kind.lr_by_length
    return kind.lr * width * length


def default_beta2(n_steps: int) -> float:
    """Adam's second decay: a memory of a fifteenth of the run, of 50 to 1,000 steps.

    With .999 a short run never forgets its first gradients, which are the largest. On SmolLM2-135M, topk, 1M tokens: FVU
    .0840 with .999, .0826 with .99, all else equal.
    """
    return 1 - 1 / min(max(n_steps / 15, 50), 1000)


def default_dead_after(sae: SAEConfig, tokens: int) -> int:
    """A share of the run, at most 10M: windows made for billions of tokens never end within a short one.

    Where AuxK works on them, which costs other latents little, the share is small, but (within a twentieth of the run) no
    latent is dead before it would have fired 16 times if all fired alike. On SmolLM2-135M, topk, 1M tokens (d_sae 4608,
    k 32): FVU .0813 with a window of 20,000 rows, .0802 with 10,000, .0797 with 5,000, .0794 with 2,500.
    """
    kind = architecture(sae.arch)
    window = round(tokens * kind.dead_share)
    if kind.revives:
        window = max(window, min(round(16 * sae.d_sae / sae.k), tokens // 20))
    return max(1, min(window, 10_000_000))


def _bf16(train: TrainConfig) -> bool:
    """Of a pipeline's run this was settled before it began (``flows.resolve``), for all machines alike."""
    if train.precision == "auto":
        return for_training(here("cuda" if train.on_gpus else "cpu")).dtype == "bfloat16"
    return train.precision == "bf16"


def _first(*values: float | None) -> float | None:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)


def _ramp(done: float, length: float) -> float:
    return min(1.0, done / length) if length > 0 else 1.0
