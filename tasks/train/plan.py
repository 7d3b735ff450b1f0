"""What a training run will do, resolved before its first step: lengths in steps, learning rate, dead-latent window."""

import math
from dataclasses import dataclass, replace

from tasks.sae.config import SAEConfig
from tasks.train.config import TrainConfig

CURVE_ROWS = 250
"""About how many rows the training curve gets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One run's settings with nothing left open; the same on every worker."""

    sae: SAEConfig
    d_in: int
    batch_rows: int
    """Rows per step, over all workers."""
    n_steps: int
    lr: float
    """Peak learning rate."""
    warmup_steps: float
    decay_steps: float
    dead_after: int
    """Rows without firing after which a latent counts as dead."""
    bf16: bool
    seed: int
    log_every: int
    """Steps per row of the curve."""
    checkpoint_every: int
    """Steps between checkpoints, a multiple of ``log_every``."""

    def lr_at(self, step: int) -> float:
        """Learning rate of a step counted from 0: linear warm-up, constant, linear decay to (just above) 0."""
        return self.lr * min(_ramp(step + 1, self.warmup_steps), _ramp(self.n_steps - step, self.decay_steps))

    def sparsity_at(self, step: int) -> float:
        """Share of the sparsity coefficient in force at a step; it warms up with the learning rate."""
        return _ramp(step + 1, self.warmup_steps)


def plan(sae: SAEConfig, train: TrainConfig, d_in: int) -> Plan:
    """Resolve settings; what is left empty follows the length of the run."""
    n_steps = math.ceil(train.tokens / train.batch_tokens)
    log_every = max(1, n_steps // CURVE_ROWS)
    checkpoint_tokens = train.checkpoint_every_tokens or math.ceil(train.tokens / 10)
    logs_per_checkpoint = max(1, math.ceil(checkpoint_tokens / (train.batch_tokens * log_every)))
    return Plan(
        sae=replace(sae, d_in=d_in),
        d_in=d_in,
        batch_rows=train.batch_tokens,
        n_steps=n_steps,
        lr=train.lr if train.lr is not None else default_lr(sae, n_steps),
        warmup_steps=train.warmup_fraction * n_steps,
        decay_steps=train.decay_fraction * n_steps,
        dead_after=train.dead_after_tokens or default_dead_after(train.tokens),
        bf16=train.precision == "bf16",
        seed=train.seed,
        log_every=log_every,
        checkpoint_every=logs_per_checkpoint * log_every,
    )


def default_lr(sae: SAEConfig, n_steps: int) -> float:
    """Peak learning rate for a width and a length: 3e-3 at d_sae 4608 and 1,000 steps.

    With width it falls as 1 / sqrt(d_sae) (https://arxiv.org/abs/2406.04093), with length as the fourth root, which
    joins what is best here for 1,000 steps to 2e-4 / sqrt(d_sae / 2^14), the usual value for millions.
    """
    length: float = (1000 / max(n_steps, 250)) ** 0.25
    return 3e-3 * math.sqrt(4608 / sae.d_sae) * length


def default_dead_after(tokens: int) -> int:
    """A hundredth of the run, at most 10M: windows made for billions of tokens never end within a short one.

    On SmolLM2-135M, 1M tokens at lr 3e-3: FVU .0879 and 1.5% dead with a twentieth, .0871 and .1% with a hundredth.
    """
    return max(1, min(tokens // 100, 10_000_000))


def _ramp(done: float, length: float) -> float:
    return min(1.0, done / length) if length > 0 else 1.0
