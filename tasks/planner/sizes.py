"""What a run is about to make, in numbers that its settings and inputs tell before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.activations.schema import Dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSize:
    """The sequences that a text is packed into."""

    train_sequences: int
    eval_sequences: int
    specials: int = 0
    """Tokens that stand for no text behind the first place of a sequence, such as separators."""
    stored_bytes: int | None = None
    """Of the tokens directory; None: it was not made to look."""
    how: str = "counted"
    """Where the numbers are from, in words."""
    is_bound: bool = True
    """Whether there are no more than these; else they are about so many."""

    @property
    def sequences(self) -> int:
        """Of both splits."""
        return self.train_sequences + self.eval_sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """The subject model's work and weights."""

    flop_to_hook: float
    """Of a sequence up to the last hook that is harvested."""
    flop_whole: float
    """Of a sequence through the whole model, its unembedding included."""
    flop_to_output: float
    """Of a sequence up to the hook whose activations are rebuilt."""
    numbers_to_hook: int
    """Weights of what a harvest loads."""
    numbers: int
    """Weights of the whole model."""
    number_bytes: int
    """Of a weight as it is held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsSize:
    """Stored activations."""

    train: int
    """Rows to train on, at each hook."""
    held_out: int
    widths: Mapping[str, int]
    """Features of each hook that is stored."""
    dtype: Dtype
    shard_rows: int
    """Tokens or rows of a shard, at most."""
    row_group_rows: int
    most_bytes: int | None = None
    """Of rows that may be stored at once (harvest.window_bytes); None: they all stay."""
    stay: bool = True
    """Whether training rows are there after the training; else all but a sample are stored beside the SAE until then."""
    label_bytes: int = 0
    """Of the labels of the user's own rows, all together."""

    @property
    def rows(self) -> int:
        """Of both splits, at each hook."""
        return self.train + self.held_out

    @property
    def shards(self) -> int:
        """Of both splits, if nothing else cuts them; each holds the rows of all hooks."""
        return -(-self.train // self.shard_rows) + -(-self.held_out // self.shard_rows)

    @property
    def row_groups(self) -> int:
        """Of one hook."""
        return sum(_groups(rows, self.shard_rows, self.row_group_rows) for rows in (self.train, self.held_out))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSize:
    """An SAE and how it is trained."""

    arch: str
    d_in: int
    d_out: int
    d_sae: int
    k: int
    skip: bool
    tokens: int
    """Rows that are seen in all."""
    batch_rows: int
    checkpoint_tokens: int
    """Rows between two checkpoints."""
    keep_checkpoints: int
    averaged: bool
    workers: int
    latent_shards: int
    lanes: int

    @property
    def numbers(self) -> int:
        """Weights and biases; of gates and thresholds, which some architectures have besides, a latent has a few more."""
        return (self.d_in + self.d_out + 1) * self.d_sae + self.d_out + self.d_in * self.d_out * self.skip

    @property
    def steps(self) -> int:
        """Batches, the last of which may be the begin of another epoch."""
        return -(-self.tokens // self.batch_rows)

    @property
    def checkpoints(self) -> int:
        """Taken in all."""
        return -(-self.tokens // self.checkpoint_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringSize:
    """How much is scored, and what is kept of each latent."""

    rows: int
    """Held-out rows that are looked at."""
    baseline_rows: int
    splice_sequences: int
    """Sequences that the model reads four times; 0: there is no text, or no one model."""
    contexts: int
    """Kept per latent, at most."""
    context_tokens: int
    """Of a context."""
    pages: int
    """Latents that the report has a panel for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSize:
    """All of a run."""

    context_length: int
    """Tokens per sequence; of rows of the user's own 1."""
    corpus: CorpusSize | None
    """None: the activations are the user's own."""
    model: ModelSize | None
    """None where it is not known, or there is none."""
    rows: RowsSize
    training: TrainingSize
    scoring: ScoringSize
    harvesters: int
    """Processes that hold the model."""
    scorers: int
    """Scoring tasks at once."""


def _groups(rows: int, shard_rows: int, group_rows: int) -> int:
    whole, rest = divmod(rows, shard_rows)
    return whole * -(-shard_rows // group_rows) + -(-rest // group_rows)
