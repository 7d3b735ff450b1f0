"""The harvest stage: which shards are wanted, which are there, and the manifest once all are."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from tasks.activations.disk_space import require_room
from tasks.activations.schema import row_bytes
from tasks.errors import InputError
from tasks.harvest.commit import hook_entries, manifest
from tasks.harvest.config import HarvestConfig, fits_keep
from tasks.harvest.kept import kept_shards, sampled
from tasks.harvest.pool.actor import HarvestJob
from tasks.harvest.pool.ray_actor_pool import Pool, PoolRun
from tasks.harvest.rolling.plan import require_kept_fit
from tasks.harvest.shards import committed, planned_shards
from tasks.lm.config import ModelConfig
from tasks.lm.engines.version import engine_identity
from tasks.lm.hooks import hook_width
from tasks.lm.load import load_skeleton
from tasks.progress import Listener
from tasks.ray_cluster import cluster_gpus, connect
from tasks.ray_config import RayConfig
from tasks.storage.artifacts import (
    MANIFEST,
    identity,
    read_manifest,
    relative,
    require_manifest,
    to_json,
    write_manifest,
)
from tasks.storage.objects import open_store

logger = logging.getLogger(__name__)


def harvest(
    settings: HarvestConfig,
    model: ModelConfig,
    cluster: RayConfig,
    tokens: str,
    shards: str,
    out: str,
    listener: Listener,
    order: str | None = None,
) -> None:
    """Harvest the activations of a tokens directory; finished shards are kept, a finished run does nothing.

    Args:
        settings: hooks, masks and shards.
        model: whose activations.
        cluster: where the actors run.
        tokens: a finished tokens directory.
        shards: the pool in which all harvests of one recipe keep their shards, whatever the corpus, so that only what no
            earlier run has seen is computed.
        out: gets the manifest, which lists this corpus' shards.
        listener: is told how far it is.
        order: hex digits that seed the order of rows within shards. None: the hash in the pool's address.

    Raises:
        InputError: the cluster cannot hold one actor, or activations do not fit the storage dtype.
        SaemillError: a shard failed ``harvest.max_attempts`` times.
    """
    before = read_manifest(out)
    if fits_keep(before, settings.keep):
        return
    if before is not None:
        logger.info("harvest: of %s only a sample of training rows was kept, all are harvested again", out)
    context_length = require_manifest(tokens)["context_length"]
    planned = planned_shards(tokens, settings.shard_tokens)
    wanted = kept_shards(planned, settings)
    done = committed(shards)
    # By their records' keys: text that a corpus repeats is computed once.
    pending = list({shard.commit_key: shard for shard in wanted if shard.commit_key not in done}.values())
    found = len(wanted) - len(pending)
    logger.info("harvest: %s shards, %s of them there from earlier runs", f"{len(wanted):,}", f"{found:,}")
    began = time.monotonic()
    run: PoolRun | None = None
    if pending:
        skeleton = load_skeleton(model)
        widths = [hook_width(skeleton, hook) for hook in settings.hooks]
        # The preflight could only guess how many tokens there would be; now it is known how many are still to be harvested.
        if settings.keep == "window":
            require_kept_fit(wanted, widths, settings, context_length)
        tokens_left = sum(shard.n_sequences for shard in pending) * context_length
        require_room(shards, tokens_left, widths, settings.dtype)
        connect(cluster)
        run = Pool(job_of(settings, model, tokens, shards, widths, order), pending, listener).run()
        _tell(settings, run)
    hooks = hook_entries(shards, wanted, settings.dtype)
    _refuse_empty_splits(hooks)
    observed = {"seconds": time.monotonic() - began, "shards": len(wanted), "shards_found": found}
    open_store(out).put("run.json", to_json({**_observed(run), **observed}))
    if settings.keep != "all":
        logger.info("harvest: held-out rows and a sample of training rows are there; training harvests what it trains on")
    finished = _manifest(settings, model, tokens, shards, out, hooks) | sampled(planned, wanted)
    if before is None:
        write_manifest(out, finished)
    else:  # which had a sample of what this has
        open_store(out).put(MANIFEST, to_json(finished))


def job_of(
    settings: HarvestConfig, model: ModelConfig, tokens: str, shards: str, widths: Sequence[int], order: str | None
) -> HarvestJob:
    """What actors are told, on the cluster that is connected; ``widths`` are those of the hooks."""
    read = require_manifest(tokens)
    return HarvestJob(
        settings=settings,
        model=model.absolute(),
        tokens=tokens,
        out=shards,
        context_length=read["context_length"],
        special_token_ids=read["special_token_ids"],
        padding_token_id=read.get("padding_token_id"),
        gpus=gpus_per_actor(settings),
        shard_bytes=settings.shard_tokens * sum(row_bytes(d_in, settings.dtype) for d_in in widths),
        order=order,
        engine_version=engine_identity(model).get("engine_version"),
    )


def _tell(settings: HarvestConfig, run: PoolRun) -> None:
    for hook, parity in run.parity.items():
        logger.info("harvest: against transformers, at %s: %s", hook, parity)
    if not run.parity and settings.batch_sequences is None and run.batch_sequences:
        found = " or ".join(map(str, run.batch_sequences))
        logger.info("harvest: %s sequences per forward pass, found by doubling; harvest.batch_sequences fixes them", found)


def _observed(run: PoolRun | None) -> dict[str, Any]:
    """What run.json says of how activations were made; None of all where none had to be."""
    return asdict(run) if run else {field.name: None for field in fields(PoolRun)}


def _refuse_empty_splits(hooks: Mapping[str, Any]) -> None:
    for hook, entry in hooks.items():
        if empty := [split for split, found in entry["splits"].items() if not found["rows"]]:
            raise InputError(f"The harvest's masks leave no {empty[0]} rows at {hook}. Loosen harvest.drop_* or add text.")


def _manifest(
    settings: HarvestConfig, model: ModelConfig, tokens: str, shards: str, out: str, hooks: Mapping[str, Any]
) -> dict[str, Any]:
    recipe = {"harvest": settings.recipe(), "model": model.recipe() | engine_identity(model), "hash": identity(out)}
    told = {"name": model.label, "dtype": model.dtype}
    return manifest(recipe, hooks, tokens=identity(tokens), model=told, shards=relative(shards, out))


def gpus_per_actor(settings: HarvestConfig) -> float:
    """GPUs that each actor reserves, on the cluster that is connected."""
    if settings.gpus_per_actor is not None:
        return settings.gpus_per_actor
    return 1.0 if cluster_gpus() else 0.0
