"""The harvest stage: which shards are wanted, which are there, and the manifest once all are."""

import time

from tasks.artifacts import identity, read_manifest, require_manifest, to_json, write_manifest
from tasks.config import PipelineConfig
from tasks.errors import InputError
from tasks.harvest.commit import committed, hook_entry, manifest, read_commits
from tasks.harvest.pool.on_ray import Job, Pool
from tasks.harvest.shards import Shard, plan_shards
from tasks.on_ray import cluster_gpus, connect
from tasks.progress import Listener
from tasks.store.objects import open_store


def harvest(config: PipelineConfig, tokens: str, out: str, listener: Listener) -> None:
    """Harvest the activations of a tokens directory into ``out``; finished shards are kept, a finished run does nothing.

    Raises:
        InputError: the cluster cannot hold one actor, or activations do not fit the storage dtype.
        SaemillError: a shard failed ``harvest.max_attempts`` times.
    """
    if read_manifest(out) is not None:
        return
    read = require_manifest(tokens)
    shards = plan_shards(read["n_sequences"], read["context_length"], config.harvest.shard_tokens)
    done = committed(out)
    pending = [shard for shard in shards if shard.commit_key not in done]
    began = time.monotonic()
    rate = None
    if pending:
        connect(config.ray)
        job = Job(config, config.model.absolute(), tokens, out, read["special_token_ids"], _gpus_per_actor(config))
        rate = Pool(job, pending, read["context_length"], listener).run()
    _finish(config, tokens, out, shards, {"seconds": time.monotonic() - began, "tokens_per_second": rate})


def _finish(config: PipelineConfig, tokens: str, out: str, shards: list[Shard], observed: dict[str, float | None]) -> None:
    records = read_commits(out, shards)
    objects = records[0]["objects"]
    hooks = {
        hook: hook_entry(records, hook, len(records[0]["sums"][hook]["total"]), config.harvest.dtype) for hook in objects
    }
    for hook, entry in hooks.items():
        if empty := [split for split, rows in entry["splits"].items() if not rows["rows"]]:
            raise InputError(f"The harvest's masks leave no {empty[0]} rows at {hook}. Loosen harvest.drop_* or add text.")
    open_store(out).put("run.json", to_json(observed))
    recipe = {"harvest": config.harvest.recipe(), "model": config.model.recipe(), "hash": identity(out)}
    write_manifest(
        out,
        manifest(recipe, hooks, tokens=identity(tokens), model={"name": config.model.label, "dtype": config.model.dtype}),
    )


def _gpus_per_actor(config: PipelineConfig) -> float:
    if config.harvest.gpus_per_actor is not None:
        return config.harvest.gpus_per_actor
    return 1.0 if cluster_gpus() else 0.0
