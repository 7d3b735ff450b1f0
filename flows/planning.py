"""What a run will take, said before it from what is known without measuring anything.

Sizes follow from the settings. Speeds come from earlier runs on the same storage, else from a probe that was made of the
same settings on this machine (``saemill plan``). Where there are neither, the time is unknown.
"""

import functools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from flows.addresses import Addresses, Placed, placed
from flows.config import PipelineConfig
from flows.probing import depends_on
from flows.rolling.places import LakePlaces
from flows.run_size import guessed, harvesters, model_size
from flows.stored_bytes import bytes_at, has_pool, stored_bytes
from tasks.activations.disk_space import free_bytes
from tasks.errors import InputError
from tasks.lm.files import model_identity
from tasks.machines import machines_of
from tasks.planner.accounts import Account, Keys, read_accounts
from tasks.planner.forecast import UNPRICED, Forecast, Prices, StageForecast, forecast_stages
from tasks.planner.measured import Measured, keep, kept, kept_measured
from tasks.planner.needs import OF_THE_MODEL, PASSING, STAGES, StageName, needs
from tasks.planner.processors import CPU, Processor
from tasks.planner.sizes import CorpusSize, ModelSize, RunSize
from tasks.planner.speed import Speed, Speeds, of_accounts, of_probe
from tasks.storage.artifacts import identity, read_manifest
from tasks.storage.objects import open_store

logger = logging.getLogger("tasks.pipeline")  # below "tasks", whose records are shown
_VERSION = 1
"""Of what is kept of texts and models; raised when it comes to be something else."""
_UNKNOWN_S = 86_400.0
"""For so long it is remembered that a model's work cannot be counted: a hub that did not answer may do so tomorrow."""


def corpus_of(config: PipelineConfig, at: Addresses) -> CorpusSize | None:
    """The text as it was counted for an earlier plan, else by the sizes of its files.

    None where there is none, or its tokens are there and say more: a finished run looks at no file of its text.

    Raises:
        InputError: there is no such corpus.
    """
    if at.tokens is None or read_manifest(at.tokens) is not None:
        return None
    found = kept_count(at.tokens)
    return guessed(config) if found is None else found


def kept_count(tokens: str) -> CorpusSize | None:
    """What counting this text, for this tokenizer and packing, came to earlier; None where nobody counted."""
    found = kept("count", counted_by(tokens))
    try:
        return None if found is None else CorpusSize(**found["corpus"])
    except (TypeError, KeyError):  # of another version of saemill
        return None


def counted_by(tokens: str) -> dict[str, Any]:
    """All that the count of a text depends on, which is what its tokens' address depends on."""
    return {"version": _VERSION, "tokens": identity(tokens)}


def bytes_left(config: PipelineConfig, at: Addresses, size: RunSize) -> dict[str, int]:
    """Bytes that are certain to be stored yet, by what they are: of a text of about so many tokens, none of its rows."""
    certain = size.corpus is None or size.corpus.is_bound
    stages = _stages(config, at, size, {}, CPU, placed(config, at))
    left: dict[str, int] = {}
    for name, stage in stages.items():
        if certain or name not in ("text", "harvest"):
            passing = 0 if certain else stage.need.stored.get(PASSING, 0)
            stored = [what for what in stage.need.stored if certain or what != PASSING]
            left[" and ".join(stored)] = max(0, stage.bytes - passing)
    return left


def forecast(
    config: PipelineConfig, at: Addresses, size: RunSize, chain: Sequence[Placed], begin_seconds: float | None = None
) -> Forecast:
    """What the stages of ``chain`` will take, by what is known already.

    Args:
        config: with its precision settled.
        at: where results lie.
        size: of the run.
        chain: the stages.
        begin_seconds: that it takes to begin; None: as long as the last run did, or the probe.
    """
    left = {STAGES[stage.name] for stage in chain if stage.name in STAGES and not stage.finished}
    if not left:
        return forecast_of(config, at, size, chain, {}, 0.0)
    accounts, measured = read_accounts(open_store(config.storage).uri), measured_of(config)
    if (accounts or measured is not None) and left & OF_THE_MODEL:
        size = with_model(config, size)
    speeds = known_speeds(config, size, accounts, measured)
    if begin_seconds is None:
        begun = [account.begin_seconds for account in accounts[:1]]
        begin_seconds = next(iter(begun), 0.0 if measured is None else measured.start_seconds)
    return forecast_of(config, at, size, chain, speeds, begin_seconds)


def forecast_of(
    config: PipelineConfig,
    at: Addresses,
    size: RunSize,
    chain: Sequence[Placed],
    speeds: Speeds,
    begin_seconds: float,
    processor: Processor = CPU,
    prices: Prices = UNPRICED,
) -> Forecast:
    """What the stages of ``chain`` will take at these speeds, on this machine or on cards of a kind."""
    corpus = size.corpus
    cards = None if processor is CPU else max(size.training.workers, size.harvesters)
    return Forecast(
        stages=_stages(config, at, size, speeds, processor, chain),
        tokens=size.rows.rows if corpus is None else corpus.sequences * size.context_length,
        how="rows of your own" if corpus is None else corpus.how,
        begin_seconds=begin_seconds,
        free_bytes=free_bytes(config.storage),
        cards=cards,
        prices=prices,
    )


def known_speeds(
    config: PipelineConfig, size: RunSize, accounts: Sequence[Account], measured: Measured | None
) -> dict[StageName, Speed]:
    """Of each stage, by the runs on this storage, else by a probe."""
    found = {} if measured is None else of_probe(measured, size)
    model = functools.cache(lambda hooks: _model_to(config, hooks))
    return found | of_accounts(accounts, size, keys(config), lambda hooks: model(tuple(hooks)))


def measured_of(config: PipelineConfig) -> Measured | None:
    """What a probe of this configuration found earlier on this machine."""
    return kept_measured(probed_by(config))


def probed_by(config: PipelineConfig) -> Mapping[str, Any]:
    """All that a probe's figures depend on."""
    model = "" if config.activations.source is not None else model_identity(config.model)
    return depends_on(config, model, machine(config))


def with_model(config: PipelineConfig, size: RunSize) -> RunSize:
    """The same with the work of the model, which takes seconds to count."""
    if size.corpus is None or size.model is not None:
        return size
    return replace(size, model=_model_to(config, tuple(config.harvest.hooks)))


def machine(config: PipelineConfig) -> str:
    """What does the work, as speeds are told apart by it."""
    if config.ray.address is not None:
        return f"the cluster at {config.ray.address}"
    (found,) = machines_of(config.ray)
    gpus = "".join(f", GPU {major}.{minor}" for major, minor in found.gpus)
    return f"{found.cpu}, {config.ray.num_cpus or _cpus()} CPUs{gpus}"


def keys(config: PipelineConfig) -> Keys:
    """What has to be the same in two runs for a stage to be as fast in both, in proportion to its work.

    Where rows do not stay, harvest computes only those that do, and training computes the others.
    """
    own, train, harvest = config.activations.source is not None, config.train, config.harvest
    there = {"machine": machine(config)}
    model = {} if own else {"model": config.model.label, "dtype": config.model.dtype, "engine": config.model.engine}
    processes = {} if own else {"actors": harvesters(config), "cpus": harvest.cpus_per_actor, "gpus": harvest.gpus_per_actor}
    kept_rows = {"keep": harvest.keep}
    workers = {"workers": train.workers, "latent_shards": train.latent_shards, "cpus": train.cpus_per_worker}
    of_training = {"arch": config.sae.arch, "precision": train.precision, "gpu": train.use_gpu}
    of_training["windows"] = train.window_tokens is not None
    return {
        "text": there | model,
        "harvest": there | model | processes | kept_rows | {"own": own},
        "training": there | workers | kept_rows | of_training,
        "scoring": there | model | {"tasks": config.score.tasks_in_flight, "gpus": config.score.gpus_per_task},
        "report": there,
    }


def _stages(
    config: PipelineConfig, at: Addresses, size: RunSize, speeds: Speeds, processor: Processor, chain: Sequence[Placed]
) -> dict[StageName, StageForecast]:
    found = needs(size, processor)
    by_name = {STAGES[stage.name]: stage for stage in chain if stage.name in STAGES}
    found = {name: need for name, need in found.items() if name in by_name}
    shares = {name: _share(by_name[name]) for name in found}
    there = {name: _there(at, by_name[name], shares[name], found[name].bytes) for name in found}
    return forecast_stages(found, shares, there, speeds)


def _share(stage: Placed) -> float:
    """Of a stage's work, what is still to be done."""
    if stage.finished:
        return 0.0
    part = stage.stage.progress(stage.out)
    if part is None or not part.done or not part.total:
        return 1.0
    return max(0.01, 1 - part.done / part.total)


def _there(at: Addresses, stage: Placed, share: float, n_bytes: int) -> int:
    """Bytes that a stage has stored already. In a pool lie those of other corpora too: there its share of the work tells."""
    if not share:
        return n_bytes
    if has_pool(at, stage):
        return round((1 - share) * n_bytes)
    return stored_bytes(at, stage) + (bytes_at(LakePlaces(stage.out).uri) if stage.name == "train" else 0)


def _model_to(config: PipelineConfig, hooks: tuple[str, ...]) -> ModelSize | None:
    """The work of the model up to some hooks, as it was counted before, or counted now; None where it cannot be counted."""
    output = config.roles.outputs[0]
    settings = {
        "version": _VERSION,
        "model": model_identity(config.model),
        "dtype": config.model.dtype,
        "hooks": list(hooks),
        "output": output,
        "context_length": config.text.context_length,
    }
    found = kept("model", settings)
    try:
        if found is not None:
            return ModelSize(**found)
    except TypeError:  # of another version of saemill: it is counted again
        pass
    if _is_unknown(settings):
        return None
    try:
        counted = model_size(config.model, hooks, output, config.text.context_length)
    except InputError:  # what is wrong with a model that is needed, the preflight says
        counted = None
    if counted is None:  # to find that out took as long
        keep("model-unknown", settings, {"at": time.time()})
    else:
        keep("model", settings, asdict(counted))
    return counted


def _is_unknown(settings: Mapping[str, Any]) -> bool:
    """Whether it was found of late that this model's work cannot be counted."""
    found = (kept("model-unknown", settings) or {}).get("at")
    return isinstance(found, float) and abs(time.time() - found) < _UNKNOWN_S


def _cpus() -> int:
    return os.cpu_count() or 1
