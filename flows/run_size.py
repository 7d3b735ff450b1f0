"""The sizes of a run, made of its configuration and of what is there already."""

import os
from collections.abc import Mapping, Sequence

from flows.addresses import Addresses
from flows.config import PipelineConfig
from tasks.activations.manifest import SAMPLED, require_hooks
from tasks.harvest.sources import source_shape
from tasks.lm.config import ModelConfig
from tasks.planner.sizes import CorpusSize, ModelSize, RowsSize, RunSize, ScoringSize, TrainingSize
from tasks.stage import Widths
from tasks.storage.artifacts import read_manifest

BYTES_PER_TOKEN = 4
"""Of English text in UTF-8, where nothing was counted."""
_NUMBER_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def run_size(
    config: PipelineConfig, at: Addresses, widths: Widths, corpus: CorpusSize | None, model: ModelSize | None = None
) -> RunSize:
    """All sizes of a run.

    Args:
        config: with its precision settled.
        at: where its results lie.
        widths: features of each hook, as the preflight has found them.
        corpus: the text, where it is not tokenized yet.
        model: the model's work, where it is known.
    """
    corpus = corpus if at.tokens is None else (_tokenized(at.tokens) or corpus)
    rows, train = _rows(config, at, widths, corpus), config.train
    roles = config.roles
    d_in, d_out = (sum(widths[hook] for hook in side) for side in (roles.inputs, roles.outputs))
    scored = min(config.score.max_tokens, rows.held_out or rows.train)
    return RunSize(
        context_length=1 if corpus is None else config.text.context_length,
        corpus=corpus,
        model=model,
        rows=rows,
        training=TrainingSize(
            arch=config.sae.arch,
            d_in=d_in,
            d_out=d_out,
            d_sae=config.sae.d_sae,
            k=config.sae.k,
            skip=config.sae.skip,
            tokens=train.tokens,
            batch_rows=train.batch_tokens,
            checkpoint_tokens=train.checkpoint_every_tokens or -(-train.tokens // 10),
            keep_checkpoints=train.keep_checkpoints,
            averaged=train.ema_decay > 0,
            workers=train.workers,
            latent_shards=train.latent_shards,
            lanes=train.lanes,
        ),
        scoring=_scoring(config, corpus, scored),
        harvesters=harvesters(config),
        scorers=config.score.tasks_in_flight or cpus(config),
    )


def harvesters(config: PipelineConfig) -> int:
    """Processes that hold the model, on this machine or as they were asked for."""
    return config.harvest.actors or max(1, int(cpus(config) / config.harvest.cpus_per_actor))


def cpus(config: PipelineConfig) -> int:
    """Of the local cluster."""
    return config.ray.num_cpus or os.cpu_count() or 1


def guessed(config: PipelineConfig) -> CorpusSize | None:
    """The text by the sizes of its files alone; None where there is none.

    Raises:
        InputError: there is no such corpus.
    """
    from tasks.text.volume import text_bytes

    if config.activations.source is not None:
        return None
    most, volume = config.text.max_tokens, text_bytes(config.text)
    by_volume = None if volume is None else volume // BYTES_PER_TOKEN
    known = [tokens for tokens in (most, by_volume) if tokens is not None]
    tokens = min(known, default=0)
    if tokens == most:
        return split_evenly(config, tokens, "at most, by text.max_tokens", is_bound=True)
    how = "about, by the sizes of the files" if known else "not known before it is read"
    return split_evenly(config, tokens, how, is_bound=False)


def split_evenly(config: PipelineConfig, tokens: int, how: str, *, is_bound: bool) -> CorpusSize:
    """So many tokens, of which the share is held out that was asked for."""
    sequences = tokens // config.text.context_length
    held_out = round(sequences * config.text.eval_fraction)
    return CorpusSize(train_sequences=sequences - held_out, eval_sequences=held_out, how=how, is_bound=is_bound)


def model_size(config: ModelConfig, hooks: Sequence[str], output: str, context_length: int) -> ModelSize | None:
    """The model's work and weights, counted on its skeleton in seconds; None where it does not run without weights.

    Raises:
        InputError: there is no such model, or it has no such hooks.
    """
    from tasks.lm.load import load_skeleton
    from tasks.lm.work import flop_of, flop_to, numbers_to

    skeleton = load_skeleton(config)
    to_hook, to_output = (flop_to(skeleton, found, context_length) for found in (hooks, [output]))
    whole = flop_of(skeleton, context_length)
    if to_hook is None or to_output is None or whole is None:
        return None
    return ModelSize(
        flop_to_hook=to_hook,
        flop_whole=whole,
        flop_to_output=to_output,
        numbers_to_hook=numbers_to(skeleton, hooks),
        numbers=sum(parameter.numel() for parameter in skeleton.parameters()),
        number_bytes=_NUMBER_BYTES.get(config.dtype, 4),
    )


def _tokenized(tokens: str) -> CorpusSize | None:
    found = read_manifest(tokens)
    if found is None:
        return None
    sequences, separators = found["n_sequences"], found.get("separator_tokens", {})
    return CorpusSize(
        train_sequences=sequences["train"],
        eval_sequences=sequences["eval"],
        specials=sum(separators.values()),
        how="as they are tokenized",
    )


def _rows(config: PipelineConfig, at: Addresses, widths: Widths, corpus: CorpusSize | None) -> RowsSize:
    own = config.activations
    train, held_out = _row_counts(config, at, corpus)
    return RowsSize(
        train=train,
        held_out=held_out,
        widths=dict(widths),
        dtype=config.harvest.dtype if own.source is None else own.dtype,
        shard_rows=config.harvest.shard_tokens,
        row_group_rows=config.harvest.row_group_rows,
        most_bytes=config.harvest.window_bytes if config.harvest.keep == "window" else None,
        stay=config.harvest.keep == "all",
    )


def _row_counts(config: PipelineConfig, at: Addresses, corpus: CorpusSize | None) -> tuple[int, int]:
    held_out = None
    if (manifest := read_manifest(at.activations)) is not None:
        splits: Mapping[str, Mapping[str, int]]
        splits = next(iter(require_hooks(at.activations, manifest).values()))["splits"]
        held_out = splits["eval"]["rows"]
        if SAMPLED not in manifest or corpus is None:
            return splits["train"]["rows"], held_out
        # Else only a sample of the rows to train on is there, and training makes the others.
    if corpus is None:
        n_rows, _ = source_shape(config.activations)
        held_out = round(n_rows * config.activations.eval_fraction)
        return n_rows - held_out, held_out
    per_sequence = config.text.context_length - config.harvest.drop_first_position
    specials = corpus.specials if config.harvest.drop_special_tokens else 0
    of_train = round(specials * corpus.train_sequences / max(1, corpus.sequences))
    train = max(0, per_sequence * corpus.train_sequences - of_train)
    if held_out is None:
        held_out = max(0, per_sequence * corpus.eval_sequences - (specials - of_train))
    return train, held_out


def _scoring(config: PipelineConfig, corpus: CorpusSize | None, rows: int) -> ScoringSize:
    score = config.score
    spliced = 0
    if corpus is not None and len(config.roles.outputs) == 1:
        spliced = min(corpus.eval_sequences, max(1, score.splice_tokens // config.text.context_length))
    kept = score.top_contexts + score.quantiles * score.contexts_per_quantile
    return ScoringSize(
        rows=rows,
        baseline_rows=min(score.baseline_tokens, rows),
        splice_sequences=spliced,
        contexts=min(kept, -(-rows * config.sae.k // config.sae.d_sae)),
        context_tokens=2 * score.context_tokens + 1 if corpus is not None else 1,
        pages=config.report.max_latents or config.sae.d_sae,
    )
