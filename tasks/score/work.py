"""The pieces of work that scoring consists of, as plain functions of small arguments: any process can do any of them."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Int64

from tasks.artifacts import require_manifest
from tasks.config import PipelineConfig
from tasks.errors import ArtifactError
from tasks.lm.config import ModelConfig
from tasks.lm.load import load_model
from tasks.sae import SparseAutoencoder, load
from tasks.score.baselines import affordable_rows, baselines, fit_training_rows
from tasks.score.contexts import show
from tasks.score.examples import Contexts
from tasks.score.logits import neighbours, promoted_and_suppressed, unembedding
from tasks.score.pieces import Piece, cut, evenly, spread_rows
from tasks.score.splice import SpliceSums, splice
from tasks.score.strings import load_strings
from tasks.score.survey import Survey, survey
from tasks.score.tables import WeightColumns, neighbour_lists, token_lists
from tasks.score.text import read_text
from tasks.score.windows import Around
from tasks.store.files import read_sequences
from tasks.store.reader import Split
from tasks.store.schema import to_float32

SPLICE_SEQUENCES = 8
"""Sequences per piece of splicing work; fixed, so that the sums do not depend on the number of workers."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is scored, and with which settings; small, since every piece of work gets it."""

    config: PipelineConfig
    tokens: str | None
    activations: str
    sae: str

    def split(self, name: str) -> Split:
        """The train or eval rows of the hook that the SAE was trained on."""
        return Split(self.activations, self.config.hook, name)

    @property
    def pieces(self) -> list[Piece]:
        """All held-out rows that are scored."""
        return cut(self.split("eval"), self.config.score.max_tokens)

    def statistics(self, split: str) -> dict[str, Any]:
        """The activations' recorded statistics."""
        found: dict[str, Any] = require_manifest(self.activations)["hooks"][self.config.hook]["statistics"][split]
        return found


def survey_piece(job: Job, piece: Piece) -> Survey:
    """Sums and evidence of a piece's rows.

    Raises:
        ArtifactError: the SAE is of another width than the activations.
    """
    split, sae = job.split("eval"), _sae(job.sae)
    if sae.d_in != split.d_in:
        raise ArtifactError(f"{job.sae} takes d_in {sae.d_in}, {job.activations} has {split.d_in}. Train again.")
    rows = split.shard(piece.shard, piece.start, piece.stop)
    return survey(sae, rows, split.dtype, piece, job.statistics("eval")["median_norm"], job.config.score)


def show_piece(
    job: Job, piece: Piece, contexts: Contexts, largest: Float32[np.ndarray, "d_sae"]
) -> tuple[pa.Table, Int64[np.ndarray, "d_sae bins"]]:
    """The rows of examples.parquet for contexts whose peaks lie in the piece, and its share of the histograms."""
    reach = job.config.score.context_tokens
    around = Around.read(job.split("eval"), piece, reach)
    sequence = around.rows.sequence
    first, n = int(sequence.min()), int(sequence.max() - sequence.min()) + 1
    text = read_text(job.tokens, first, n) if job.tokens is not None else None
    return show(_sae(job.sae), around, piece, contexts, largest, text, reach)


def baseline_k(job: Job, l0: float) -> int:
    """Numbers per row that a baseline may use: the SAE's k, or its L0 where the architecture has no k."""
    sae = _sae(job.sae)
    k = sae.config.k if sae.config.arch == "topk" else round(l0)
    return min(max(1, k), sae.d_in)


def measure_baselines(job: Job, k: int) -> dict[str, dict[str, Any]]:
    """FVU of the baselines, and of the SAE on the same rows."""
    split, sae = job.split("eval"), _sae(job.sae)
    wanted = min(job.config.score.baseline_tokens, affordable_rows(k, sae.d_in))
    rows = to_float32(spread_rows(split, job.pieces, wanted), split.dtype)
    return baselines(sae, fit_training_rows(job.split("train"), sae.d_sae), torch.tensor(rows), k)


def read_weights(job: Job) -> WeightColumns:
    """What the latents' weights say: tokens by the unembedding, and neighbours."""
    sae, config = _sae(job.sae), job.config.score
    near = neighbour_lists(neighbours(sae.W_dec, config.neighbours))
    head = unembedding(_model(job.config.model), sae.d_in) if job.tokens is not None else None
    if head is None or job.tokens is None:
        return WeightColumns(token_lists(None, None, sae.d_sae), token_lists(None, None, sae.d_sae), near)
    strings = load_strings(job.tokens)
    promoted, suppressed = promoted_and_suppressed(sae.W_dec, head, config.top_logits)
    return WeightColumns(token_lists(promoted, strings, sae.d_sae), token_lists(suppressed, strings, sae.d_sae), near)


def splice_sequences(job: Job) -> list[int]:
    """The held-out sequences on which the SAE is spliced into the model; none where there is no text."""
    if job.tokens is None:
        return []
    tokens = require_manifest(job.tokens)
    wanted = max(1, job.config.score.splice_tokens // tokens["context_length"])
    first, n = tokens["n_sequences"]["train"], tokens["n_sequences"]["eval"]
    return [int(sequence) + first for sequence in evenly(n, wanted)]


def measure_splice(job: Job, sequences: list[int]) -> SpliceSums | None:
    """Cross-entropies on some sequences; None where the model is no causal LM."""
    model = _model(job.config.model)
    if model.get_output_embeddings() is None or job.tokens is None:
        return None
    token_ids = np.concatenate([read_sequences(job.tokens, sequence, 1) for sequence in sequences])
    mean = torch.tensor(job.statistics("train")["mean"], dtype=torch.float32)
    kept = torch.from_numpy(_kept(job.split("eval"), sequences, token_ids.shape[1]))
    return splice(model, job.config.hook, _sae(job.sae), mean, torch.from_numpy(token_ids.astype(np.int64)), kept)


def _kept(split: Split, sequences: list[int], context_length: int) -> Bool[np.ndarray, "n context"]:
    """Which positions of sequences have a stored row: those that the harvest's masks kept."""
    kept = np.zeros((len(sequences), context_length), bool)
    for index in range(len(split.shards)):
        sequence, position = split.places(index)
        at = np.searchsorted(sequences, sequence)
        wanted = np.isin(sequence, sequences)
        kept[at[wanted], position[wanted]] = True
    return kept


@functools.lru_cache(maxsize=1)
def _sae(uri: str) -> SparseAutoencoder:
    return load(uri)


@functools.lru_cache(maxsize=1)
def _model(config: ModelConfig) -> Any:
    """The subject model, kept by the process for its next piece of work: loading takes seconds."""
    return load_model(config)
