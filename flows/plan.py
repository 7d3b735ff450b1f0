"""``saemill plan``: what a run would take, with all that it takes to know it: the text is counted, the machine measured."""

import logging
from dataclasses import asdict, replace

from flows.addresses import Addresses, addresses, placed
from flows.config import PipelineConfig
from flows.planning import (
    corpus_of,
    counted_by,
    forecast,
    forecast_of,
    kept_count,
    machine,
    probed_by,
    with_model,
)
from flows.preflight import check_reachable
from flows.probing import probe
from flows.resolve import resolved
from flows.run_size import run_size
from tasks.errors import InputError
from tasks.planner.forecast import Forecast, Prices
from tasks.planner.measured import Measured, keep, keep_measured, kept
from tasks.planner.processors import GPUS
from tasks.planner.sizes import CorpusSize
from tasks.planner.speed import of_card
from tasks.stage import Widths
from tasks.storage.artifacts import read_manifest

logger = logging.getLogger("tasks.pipeline")  # below "tasks", whose records are shown
COUNTED = 500_000
"""Tokens of a text that are counted; of a longer one the rest is taken to be like them."""


def planned(config: PipelineConfig, *, measure: bool = True, card: str | None = None, prices: Prices) -> Forecast:
    """What a run of this configuration would take.

    Args:
        config: as it is given.
        measure: count the text and probe this machine, unless that was done before; else only what is known is told.
        card: the name of a GPU on which it would run, in place of this machine.
        prices: what is paid.

    Raises:
        InputError: text, model or activations are not there or do not fit, no card is called so, or the probe failed.
    """
    if card is not None:
        return _on_cards(config, card, prices)
    config = resolved(config)
    check_reachable(config)
    at = addresses(config)
    chain = placed(config, at)
    size = run_size(config, at, _widths(config, at), _corpus(config, at) if measure else corpus_of(config, at))
    if measure and not all(stage.finished for stage in chain):
        size = with_model(config, size)
    found = forecast(config, at, size, chain)
    if measure and found.seconds is None and _is_measurable(config):
        logger.info("measuring this machine, for some 20 s")
        keep_measured(probed_by(config), _with_text(probe(config, size), at))
        found = forecast(config, at, size, chain)
    return replace(found, prices=_priced(config, prices))


def _on_cards(config: PipelineConfig, card: str, prices: Prices) -> Forecast:
    if card not in GPUS:
        raise InputError(f"--card is {card!r}, of which nothing is known; known are {', '.join(GPUS)}.")
    config = _in_half_precision(config)
    check_reachable(config)
    at = addresses(config)
    size = with_model(config, run_size(config, at, _widths(config, at), _corpus(config, at)))
    size = replace(size, harvesters=config.harvest.actors or 1, scorers=1)
    speeds = of_card(GPUS[card], size)
    return forecast_of(config, at, size, placed(config, at), speeds, 0.0, GPUS[card], _priced(config, prices))


def _priced(config: PipelineConfig, prices: Prices) -> Prices:
    """Where the command does not say what an hour costs, the settings may."""
    return prices if prices.per_hour is not None else replace(prices, per_hour=config.train.price_per_hour)


def _in_half_precision(config: PipelineConfig) -> PipelineConfig:
    """What ``auto`` comes to on such cards."""
    model, train = config.model, config.train
    if model.dtype == "auto":
        model = model.model_copy(update={"dtype": "bfloat16"})
    if train.precision == "auto":
        train = train.model_copy(update={"precision": "bf16"})
    return config.model_copy(update={"model": model, "train": train})


def _is_measurable(config: PipelineConfig) -> bool:
    """Whether this machine's CPUs will do the work: GPUs and clusters are known by the runs that they did."""
    return config.ray.address is None and "GPU" not in machine(config).rpartition(" CPUs")[2]


def _widths(config: PipelineConfig, at: Addresses) -> Widths:
    (harvest,) = (stage for stage in placed(config, at) if stage.name == "harvest")
    return harvest.stage.check_inputs(harvest.out, {})


def _corpus(config: PipelineConfig, at: Addresses) -> CorpusSize | None:
    """The text, counted now unless it was before; None where there is none, or its tokens are there."""
    from tasks.text.tokenize import counted
    from tasks.text.volume import text_bytes

    if at.tokens is None or read_manifest(at.tokens) is not None:
        return None
    if (earlier := kept_count(at.tokens)) is not None:
        return earlier
    logger.info("counting the text")
    found = counted(config.text, config.model, COUNTED)
    n_sequences = sum(found.n_sequences.values())
    corpus = CorpusSize(
        train_sequences=found.n_sequences["train"],
        eval_sequences=found.n_sequences["eval"],
        specials=found.specials,
        stored_bytes=found.stored_bytes,
    )
    if not found.whole:
        corpus = _whole(config, corpus, found.read_bytes, text_bytes(config.text))
    tokens = max(1, n_sequences * config.text.context_length)
    speeds = {"tokenizer_seconds": found.tokenizer_seconds, "token_seconds": found.seconds / tokens}
    keep("count", counted_by(at.tokens), {"corpus": asdict(corpus), **speeds})
    return corpus


def _whole(config: PipelineConfig, begin: CorpusSize, read_bytes: int, all_bytes: int | None) -> CorpusSize:
    """A text of which the begin was counted, if the rest is like that."""
    most = config.text.max_tokens
    by_bytes = None if all_bytes is None else begin.sequences * config.text.context_length * all_bytes / max(1, read_bytes)
    known = [tokens for tokens in (most, by_bytes) if tokens is not None]
    if not known:  # of a dataset on the hub nobody knows how long it is
        return replace(begin, stored_bytes=None, how="at least: counting stopped there", is_bound=False)
    times = min(known) / max(1, begin.sequences * config.text.context_length)
    by_settings = most is not None and most == min(known)
    return CorpusSize(
        train_sequences=round(times * begin.train_sequences),
        eval_sequences=round(times * begin.eval_sequences),
        specials=round(times * begin.specials),
        how="by text.max_tokens; shares as in its begin" if by_settings else "about, of a text like its begin",
        is_bound=by_settings,
    )


def _with_text(measured: Measured, at: Addresses) -> Measured:
    """With what counting the text took."""
    found = None if at.tokens is None else kept("count", counted_by(at.tokens))
    if found is None:
        return measured
    try:
        return replace(measured, tokenizer_seconds=found["tokenizer_seconds"], token_seconds=found["token_seconds"])
    except KeyError:  # of another version of saemill
        return measured
