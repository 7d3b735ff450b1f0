"""Our side: an SAE trained by the training loop itself on a stream with known features."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tasks.sae.config import SAEConfig
from tasks.sae.model import SparseAutoencoder
from tasks.sae.scaling import Scaling, scaling
from tasks.score.truth import Recovery, TruthRows, recovery
from tasks.train.config import TrainConfig
from tasks.train.finish import finished_weights
from tasks.train.loop import Run, train
from tasks.train.plan import plan
from tasks.train.train_state import initial_state
from tasks.train.worker import SAMPLE_ROWS
from tests.benchmarks.quality.truth.stream import Stream

_STATISTICS_ROWS = 131_072  # a harvest records those of all rows; here the first ones do


@dataclass(frozen=True)
class Ours:
    """What an SAE of ours recovered."""

    recovery: Recovery
    seconds: float
    lr: float


def our_recovery(stream: Stream, sae: SAEConfig, settings: TrainConfig) -> Ours:
    """Train on the stream from its beginning, and score on its held-out rows."""
    at = _scaling(stream)
    resolved = plan(sae, settings, stream.train.shape[1])
    sample = at.apply(torch.from_numpy(stream.train[:SAMPLE_ROWS].astype(np.float32)))
    run = Run(initial_state(resolved, sample))
    began = time.monotonic()
    train(run, stream.batches(settings.batch_tokens), resolved, at)
    seconds = time.monotonic() - began
    if run.state.step < resolved.n_steps:
        raise ValueError(f"the stream has rows for {run.state.step} of {resolved.n_steps} steps")
    finished = SparseAutoencoder(resolved.sae, finished_weights(resolved, run.state, at))
    return Ours(recovery(finished.W_dec.detach().numpy(), stream.directions, _rows(stream, finished)), seconds, resolved.lr)


def _scaling(stream: Stream) -> Scaling:
    rows = stream.train[:_STATISTICS_ROWS].astype(np.float64)
    mean = rows.mean(axis=0)
    return scaling(torch.from_numpy(mean.astype(np.float32)), float(np.square(rows - mean).sum() / len(rows)))


def _rows(stream: Stream, sae: SparseAutoencoder) -> Iterator[TruthRows]:
    with torch.inference_mode():
        for _, x, fires in stream.pieces():
            codes = sae.encode(torch.from_numpy(x))
            yield TruthRows(x, codes.numpy(), sae.decode(codes).numpy(), fires)
