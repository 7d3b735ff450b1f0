"""The pieces of work that scoring consists of, as plain functions of small arguments: any process can do any of them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Int64

from tasks.activations.loader.prefetch import ahead
from tasks.activations.multi_hook import AnySplit, open_split
from tasks.activations.schema import to_float32
from tasks.encode.pieces import Piece
from tasks.errors import ArtifactError
from tasks.lm.config import ModelConfig
from tasks.precision import here
from tasks.sae import SparseAutoencoder, load
from tasks.score.baselines import affordable_rows, baselines, fit_training_rows
from tasks.score.contexts import show
from tasks.score.device import device_name, peak_bytes
from tasks.score.device_survey import survey_on_device
from tasks.score.directions import directions
from tasks.score.examples import ChosenContexts
from tasks.score.job import ScoreJob
from tasks.score.linear import linear_baselines
from tasks.score.logits import neighbours, promoted_and_suppressed, unembedding
from tasks.score.sample import evenly, spread_rows
from tasks.score.splice import SpliceSums, splice
from tasks.score.stability import Stability, stability
from tasks.score.survey import Survey, survey
from tasks.score.tables import WeightColumns, neighbour_lists, token_lists
from tasks.score.text import read_text
from tasks.score.windows import Around
from tasks.storage.artifacts import require_manifest
from tasks.text.stored import read_sequences
from tasks.token_strings import load_strings

SPLICE_SEQUENCES = 8
"""Sequences per piece of splicing work; fixed, so that the sums do not depend on the number of workers."""

Examples = tuple[pa.Table, Int64[np.ndarray, "d_sae bins"]]
"""Rows of examples.parquet, and a share of the histograms."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a look at some pieces' rows gives."""

    surveys: list[Survey]
    """Of each piece, in their order; they add to that of all pieces."""
    device: str
    """What looked at them."""
    peak_bytes: int | None
    """Most memory of that device that was taken; None on a CPU."""


def survey_pieces(job: ScoreJob, pieces: Sequence[Piece]) -> Surveyed:
    """Sums and evidence of the rows of pieces that follow each other.

    Raises:
        ArtifactError: the SAE is of another width than the activations.
    """
    split, sae, roles = job.split("eval"), _sae(job.sae, job.device), job.roles
    _require_fit(job, sae)
    medians = [statistics["median_norm"] for statistics in job.statistics("eval")]
    read = ((piece, split.shard(piece.shard, piece.start, piece.stop)) for piece in pieces)
    if job.gpus:
        found = survey_on_device(sae, ahead(read, 1), split.dtype, medians, job.settings, roles)
    else:
        found = [survey(sae, rows, split.dtype, piece, medians, job.settings, roles) for piece, rows in read]
    return Surveyed(found, device_name(job.device), peak_bytes(job.device))


def measure_stability(a: str, b: str, device: str = "cpu") -> Stability:
    """What two SAEs have in common that differ in the seed of their initial weights."""
    return stability(load(a, device), load(b, device))


def show_pieces(
    job: ScoreJob, pieces: Sequence[tuple[Piece, ChosenContexts]], largest: Float32[np.ndarray, "d_sae"]
) -> list[Examples]:
    """For pieces with the contexts whose peaks lie in them: rows of examples.parquet, and their shares of the histograms."""
    return [_show_piece(job, piece, contexts, largest) for piece, contexts in pieces]


def _show_piece(job: ScoreJob, piece: Piece, contexts: ChosenContexts, largest: Float32[np.ndarray, "d_sae"]) -> Examples:
    reach = job.settings.context_tokens
    around = Around.read(open_split(job.activations, job.hooks.inputs, "eval"), piece, reach)
    sequence = around.rows.sequence
    first, n = int(sequence.min()), int(sequence.max() - sequence.min()) + 1
    text = read_text(job.tokens, first, n) if job.tokens is not None else None
    return show(_sae(job.sae, job.device), around, piece, contexts, largest, text, reach)


def baseline_k(job: ScoreJob, l0: float) -> int:
    """Numbers per row that a baseline may use: the SAE's k, or its L0 where the architecture has no k."""
    sae = _sae(job.sae, "cpu")
    k = sae.config.k if sae.keeps_k else round(l0)
    return min(max(1, k), sae.d_in)


def measure_baselines(job: ScoreJob, k: int) -> dict[str, dict[str, Any]]:
    """FVU of the baselines, and of the SAE on the same rows."""
    split, sae, roles = job.split("eval"), _sae(job.sae, job.device), job.roles
    wanted = min(job.settings.baseline_tokens, affordable_rows(k, sae.d_in))
    rows = torch.tensor(to_float32(spread_rows(split, job.pieces, wanted), split.dtype)).to(job.device)
    if roles.kind == "transcoder":
        return linear_baselines(sae, fit_training_rows(job.split("train"), 0, device=job.device), rows, k)
    scale = None if roles.scale is None else torch.from_numpy(roles.scale).to(job.device)
    training = fit_training_rows(job.split("train"), sae.d_sae, scale, device=job.device)
    return baselines(sae, training, rows, k, scale)


def read_weights(job: ScoreJob) -> WeightColumns:
    """What the latents' weights say: tokens by the unembedding (of several hooks, at the last), and neighbours."""
    sae, config, roles = _sae(job.sae, job.device), job.settings, job.roles
    near = neighbour_lists(neighbours(directions(sae, roles).decoder, config.neighbours))
    last = sae.W_dec[:, roles.parts[-1]]
    known = job.model if job.tokens is not None else None
    head = unembedding(_model(known, job.device), last.shape[1]) if known is not None else None
    if head is None or job.tokens is None:
        return WeightColumns(token_lists(None, None, sae.d_sae), token_lists(None, None, sae.d_sae), near)
    strings = load_strings(job.tokens)
    promoted, suppressed = promoted_and_suppressed(last, head, config.top_logits)
    return WeightColumns(token_lists(promoted, strings, sae.d_sae), token_lists(suppressed, strings, sae.d_sae), near)


def splice_sequences(job: ScoreJob) -> list[int]:
    """The held-out sequences on which the SAE is spliced into the model; none where there is no text or no model.

    Nor for a crosscoder: what it reads at its later hooks would change with what it puts in at the earlier ones.
    """
    if job.tokens is None or job.model is None or len(job.hooks.outputs) > 1:
        return []
    tokens = require_manifest(job.tokens)
    wanted = max(1, job.settings.splice_tokens // tokens["context_length"])
    first, n = tokens["n_sequences"]["train"], tokens["n_sequences"]["eval"]
    return [int(sequence) + first for sequence in evenly(n, wanted)]


def measure_splices(job: ScoreJob, groups: Sequence[Sequence[int]]) -> list[SpliceSums | None]:
    """Cross-entropies on the sequences of each group; None where the model is no causal LM."""
    return [_measure_splice(job, sequences) for sequences in groups]


def _measure_splice(job: ScoreJob, sequences: Sequence[int]) -> SpliceSums | None:
    assert job.model is not None and job.tokens is not None  # else there are no such sequences
    model = _model(job.model, job.device)
    if model.get_output_embeddings() is None:
        return None
    token_ids = np.concatenate([read_sequences(job.tokens, sequence, 1) for sequence in sequences])
    mean = torch.tensor(job.statistics("train")[0]["mean"], dtype=torch.float32, device=job.device)
    kept = torch.from_numpy(_kept(job.split("eval"), sequences, token_ids.shape[1])).to(job.device)
    roles, ids = job.roles, torch.from_numpy(token_ids.astype(np.int64)).to(job.device)
    reads = roles.inputs[0] if roles.kind == "transcoder" else None
    return splice(model, roles.outputs[0], _sae(job.sae, job.device), mean, ids, kept, reads)


def _require_fit(job: ScoreJob, sae: SparseAutoencoder) -> None:
    ends = {"takes d_in": (sae.d_in, job.hooks.inputs), "gives d_out": (sae.d_out, job.hooks.outputs)}
    for does, (width, hooks) in ends.items():
        found = open_split(job.activations, hooks, "eval").d_in
        if width != found:
            raise ArtifactError(f"{job.sae} {does} {width}, {job.activations} has {found}. Train again.")


def _kept(split: AnySplit, sequences: Sequence[int], context_length: int) -> Bool[np.ndarray, "n context"]:
    """Which positions of sequences have a stored row: those that the harvest's masks kept."""
    kept = np.zeros((len(sequences), context_length), bool)
    for index in range(len(split.shards)):
        sequence, position = split.places(index)
        at = np.searchsorted(sequences, sequence)
        wanted = np.isin(sequence, sequences)
        kept[at[wanted], position[wanted]] = True
    return kept


@functools.lru_cache(maxsize=1)
def _sae(uri: str, device: str) -> SparseAutoencoder:
    return load(uri, device)


@functools.lru_cache(maxsize=1)
def _model(config: ModelConfig, device: str = "cpu") -> Any:
    """The subject model, kept by the process for its next piece of work: loading takes seconds.

    Its weights are rounded as in the harvest, which may have run on another device; where this CPU would emulate that
    precision, which takes six times as long, they are multiplied in float32.
    """
    from tasks.lm.load import load_model  # transformers: 3 s of a slow CPU, for nothing where activations are the user's own

    model = load_model(config, device)
    fast = device != "cpu" or str(model.dtype) == f"torch.{here('cpu').dtype}"
    return model if fast else model.float()
