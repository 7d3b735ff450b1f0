"""Everything that can be refused before any work starts or anything is written."""

import os
from collections.abc import Mapping

from tasks.addresses import Addresses, addresses
from tasks.artifacts import read_manifest, require_manifest
from tasks.config import PipelineConfig
from tasks.errors import InputError
from tasks.machine import gib, memory_bytes
from tasks.store.manifest import require_hooks
from tasks.store.objects import LocalStore, open_store
from tasks.store.probe import require_create_only, require_reachable
from tasks.store.room import existing, require_room


def check(config: PipelineConfig) -> None:
    """Refuse a run whose inputs, storage or settings do not fit together.

    What a finished harvest has already proved is not looked at again, so a rerun starts at once.

    Raises:
        InputError: with one sentence: where, what was found, what was expected, what to do.
    """
    check_reachable(config)
    check_storage(config.storage)
    check_cpus(config)
    check_gpus(config)
    _check_object_store(config)
    _check_loggers(config)
    at = addresses(config)
    if read_manifest(at.activations) is not None:
        _check_widths(config, at, _harvested_widths(at))
    elif config.activations.source is not None:
        _check_own(config, at)
    else:
        _check_text_and_model(config, at)


def check_reachable(config: PipelineConfig) -> None:
    """Refuse buckets, of the storage and of inputs, that cannot be reached, in seconds.

    Raises:
        InputError: no server answers, or it knows no such bucket or not these credentials.
    """
    inputs = {"storage": config.storage, "text.source": config.text.source, "activations.source": config.activations.source}
    for name, uri in inputs.items():
        if uri is not None and uri.startswith("s3://"):
            require_reachable(uri, name)


def check_cpus(config: PipelineConfig) -> None:
    """Refuse more workers than the local cluster will hold; of a cluster that is joined, the stages ask it themselves.

    Raises:
        InputError: training or harvest wants more CPUs than there are.
    """
    if config.ray.address is not None:
        return
    there = config.ray.num_cpus or os.cpu_count() or 1
    pools = {"train.workers": (config.train.least_workers, config.train.cpus_per_worker)}
    if config.harvest.actors is not None and config.activations.source is None:
        pools["harvest.actors"] = (config.harvest.actors, config.harvest.cpus_per_actor)
    for name, (processes, cpus) in pools.items():
        if processes * cpus > there:
            raise InputError(
                f"{name} is {processes} with {cpus:g} CPUs each, but the local Ray cluster has {there}. "
                f"Lower {name}, or raise ray.num_cpus."
            )


def check_gpus(config: PipelineConfig) -> None:
    """Refuse training on GPUs that the local cluster will not have; a cluster that is joined says so itself.

    Raises:
        InputError: train.use_gpu is on, and this machine has fewer GPUs than training wants workers.
    """
    if config.ray.address is not None or not config.train.use_gpu:
        return
    import torch  # takes seconds

    there, least = torch.cuda.device_count(), config.train.least_workers
    if there == 0:
        raise InputError(
            "train.use_gpu is on, but PyTorch finds no GPU on this machine. Turn it off, or join a cluster that has GPUs "
            "(ray.address)."
        )
    if least > there:
        raise InputError(
            f"train.use_gpu is on and training wants {least} workers with a GPU each, but this machine has {there}. Lower "
            "train.workers (or train.min_workers), or turn train.use_gpu off."
        )


def _check_object_store(config: PipelineConfig) -> None:
    there, wanted = memory_bytes(), config.ray.object_store_mb * 2**20
    if config.ray.address is None and there is not None and wanted > there:
        raise InputError(
            f"ray.object_store_mb is {config.ray.object_store_mb:,}, but this machine has {gib(there)} of memory in all. "
            "Lower it: activations never pass through the object store."
        )


def _check_memory(config: PipelineConfig, at: Addresses, d_in: int, d_out: int) -> None:
    """Refuse an SAE whose weights and two moments of Adam alone, in float32, this machine could not hold.

    Of a cluster that is joined, nothing is known here; with GPUs, it is their memory that counts.
    """
    there = memory_bytes()
    if config.ray.address is not None or config.train.use_gpu or there is None or read_manifest(at.sae) is not None:
        return
    needed = 3 * 4 * (d_in + d_out + 1) * config.sae.d_sae
    if needed > there:
        raise InputError(
            f"sae.d_sae is {config.sae.d_sae:,}, whose weights and Adam's moments take {gib(needed)} at d_in {d_in:,}, but "
            f"this machine has {gib(there)} of memory. Lower sae.d_sae, or join a cluster (ray.address)."
        )


def _check_loggers(config: PipelineConfig) -> None:
    if any(name is not None for name in (config.train.tensorboard, config.train.mlflow, config.train.wandb)):
        from tasks.train.loggers import check_loggers  # imports torch

        check_loggers(config.train)


def check_storage(storage: str) -> None:
    """Refuse a storage root that cannot be written, or whose server would let two runs overwrite each other.

    Raises:
        InputError: the folder (or the one it would be made in) is not writable, the bucket cannot be reached, or its
            server ignores create-only PUTs.
    """
    store = open_store(storage)
    if isinstance(store, LocalStore):
        folder = existing(store.uri)
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            what = "is not writable" if folder.is_dir() else "is not a folder"
            raise InputError(f"storage is {storage!r} but {folder} {what}. Choose another folder or an s3:// URI.")
        return
    require_create_only(storage)


def _harvested_widths(at: Addresses) -> dict[str, int]:
    hooks = require_hooks(at.activations, require_manifest(at.activations))
    return {hook: int(found["d_in"]) for hook, found in hooks.items()}


def _check_own(config: PipelineConfig, at: Addresses) -> None:
    from tasks.harvest.sources import source_shape

    n_rows, d_in = source_shape(config.activations)
    _check_widths(config, at, {config.hook: d_in})
    if next(open_store(at.activations).list(), None) is None:  # what was begun had room, and has taken part of it
        require_room(config.storage, n_rows, [d_in], config.activations.dtype)


def _check_text_and_model(config: PipelineConfig, at: Addresses) -> None:
    # Imported here: torch and transformers take seconds, which a rerun of a finished harvest need not wait for.
    from tasks.lm.hooks import hook_width
    from tasks.lm.limits import check_context
    from tasks.lm.load import load_skeleton
    from tasks.text.corpus import check_corpus

    check_corpus(config.text)
    skeleton = load_skeleton(config.model, as_run=True)
    check_context(skeleton, config.text.context_length)
    widths = {hook: hook_width(skeleton, hook) for hook in config.harvest.hooks}
    _check_widths(config, at, widths)
    # Once there are tokens, the harvest itself knows how many of them are still to be stored.
    if config.text.max_tokens is not None and (at.tokens is None or read_manifest(at.tokens) is None):
        require_room(config.storage, config.text.max_tokens, list(widths.values()), config.harvest.dtype)


def _check_widths(config: PipelineConfig, at: Addresses, widths: Mapping[str, int]) -> None:
    d_in, d_out = (sum(widths[hook] for hook in hooks) for hooks in (config.input_hooks, config.output_hooks))
    if config.sae.d_in not in (None, d_in):
        hooks = " + ".join(config.input_hooks)
        raise InputError(
            f"sae.d_in is {config.sae.d_in} but {hooks} is {d_in} wide. Leave sae.d_in empty or set it to {d_in}."
        )
    _check_memory(config, at, d_in, d_out)
