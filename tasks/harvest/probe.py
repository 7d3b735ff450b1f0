"""How fast one process harvests: the model is loaded to its hooks, as an actor loads it, and runs on a few batches."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tasks.activations.tensors import from_stored
from tasks.harvest.batch import FIRST
from tasks.harvest.capture import Subject, forward
from tasks.harvest.config import HarvestConfig
from tasks.harvest.pool.actor import HarvestJob, load_transformers
from tasks.harvest.pool.memory import keep_freed_memory
from tasks.lm.config import ModelConfig
from tasks.lm.engines.transformers_engine import TransformersEngine
from tasks.lm.forward import random_tokens


@dataclass(frozen=True, slots=True)
class Passes:
    """What some forward passes took."""

    tokens: int
    seconds: float
    activations: Mapping[str, Tensor]
    """By hook, [n, d_in] of the last pass' tokens, float32."""


def load_engine(settings: HarvestConfig, model: ModelConfig, context_length: int) -> TransformersEngine:
    """The model of a harvest on this process' CPU.

    Raises:
        InputError: there is no such model, or it has no such hooks.
    """
    keep_freed_memory()
    job = HarvestJob(
        settings=settings, model=model, tokens="", out="", context_length=context_length, special_token_ids=[], gpus=0
    )
    return load_transformers(job)


def run_passes(engine: TransformersEngine, settings: HarvestConfig, context_length: int, seconds: float) -> Passes:
    """Run batches of the settings' size, or of as many sequences as go through in half of ``seconds``, for about as long.

    Args:
        engine: what ``load_engine`` gave for the same settings.
        settings: hooks, storage dtype and sequences per forward pass.
        context_length: tokens per sequence.
        seconds: how long it may take, but for two sequences and a batch that take as long as they take.
    """
    _timed(engine, settings, context_length, 1)  # sets up kernels and memory
    of_one = _timed(engine, settings, context_length, 1).seconds
    wanted = settings.batch_sequences or min(FIRST, max(1, settings.shard_tokens // context_length))
    sequences = affordable(wanted, of_one, seconds)
    done = [_timed(engine, settings, context_length, sequences)]
    while sum(one.seconds for one in done) + done[-1].seconds < seconds:
        done.append(_timed(engine, settings, context_length, sequences))
    return Passes(sum(one.tokens for one in done), sum(one.seconds for one in done), done[-1].activations)


def affordable(sequences: int, of_one: float, seconds: float) -> int:
    """Of so many ``sequences``, as many as go through in half of ``seconds``, but one at least; one takes ``of_one``."""
    return max(1, min(sequences, int(seconds / 2 / of_one)))


def _timed(engine: TransformersEngine, settings: HarvestConfig, context_length: int, sequences: int) -> Passes:
    fixed = settings.model_copy(update={"batch_sequences": sequences})
    ids = random_tokens(engine.model, sequences, context_length).numpy().astype(np.int32)
    began = time.perf_counter()
    found = forward(Subject(engine, "", "", []), fixed, ids, lambda _: None)
    taken = time.perf_counter() - began
    return Passes(ids.size, taken, {hook: from_stored(one.stored, settings.dtype).float() for hook, one in found.items()})
