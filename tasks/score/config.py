"""How much is scored, and what is kept for each latent."""

from typing import ClassVar

from pydantic import Field

from tasks.settings import MOST, MOST_PROCESSES, Settings


class ScoreConfig(Settings):
    """Sizes of the held-out samples and of the evidence kept per latent."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"tasks_in_flight", "gpus_per_task"})

    max_tokens: int = Field(131_072, ge=1, le=MOST)
    """Held-out tokens on which the SAE and its latents are scored."""
    splice_tokens: int = Field(8_192, ge=1, le=MOST)
    """Held-out tokens on which the SAE is spliced into the model for cross-entropy."""
    baseline_tokens: int = Field(8_192, ge=1, le=MOST)
    """Held-out tokens on which the baselines are scored, the SAE beside them on the same ones."""
    top_contexts: int = Field(8, ge=1, le=1000)
    """Strongest contexts kept per latent."""
    quantiles: int = Field(3, ge=0, le=1000)
    """Lower quantiles of a latent's activations from which contexts are kept too."""
    contexts_per_quantile: int = Field(2, ge=1, le=1000)
    """Contexts kept per quantile."""
    context_tokens: int = Field(12, ge=1, le=4096)
    """Tokens shown on each side of the token at which the latent fires."""
    top_logits: int = Field(10, ge=1, le=10_000)
    """Tokens listed that a latent promotes and suppresses."""
    neighbours: int = Field(5, ge=1, le=10_000)
    """Nearest latents listed, by cosine of decoder rows."""
    tasks_in_flight: int | None = Field(None, ge=1, le=MOST_PROCESSES)
    """Scoring tasks at once. Empty: one per CPU."""
    gpus_per_task: float | None = Field(None, ge=0, le=1)
    """The GPU, or the fraction of one, that each scoring task reserves. Empty: 1 where the cluster has GPUs, else 0."""
