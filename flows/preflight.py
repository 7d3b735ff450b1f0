"""Everything that can be refused before any work starts or anything is written."""

from flows.addresses import addresses, placed
from flows.config import PipelineConfig
from flows.planning import bytes_left, corpus_of
from flows.resolve import resolved
from flows.run_size import run_size
from flows.stages import stages
from tasks.activations.disk_space import require_room_of_run
from tasks.errors import InputError
from tasks.machine import gib, memory_bytes
from tasks.planner.sizes import RunSize
from tasks.ray_config import RayConfig
from tasks.stage import Widths
from tasks.storage.objects import backend_of, open_store


def check(config: PipelineConfig) -> RunSize:
    """Refuse a run whose inputs, storage or settings do not fit together; else the sizes of what it makes.

    What a finished harvest has already proved is not looked at again, so a rerun starts at once.

    Raises:
        InputError: with one sentence: where, what was found, what was expected, what to do.
    """
    check_reachable(config)
    check_storage(config.storage)
    _check_object_store(config.ray)
    for stage in stages(config):
        stage.check()
    widths: Widths = {}
    at = addresses(config)
    for at_place in placed(config, at):
        widths = at_place.stage.check_inputs(at_place.out, widths)
    size = run_size(resolved(config), at, widths, corpus_of(config, at))
    require_room_of_run(config.storage, bytes_left(config, at, size))
    return size


def check_reachable(config: PipelineConfig) -> None:
    """Refuse buckets, of the storage and of inputs, that cannot be reached, in seconds.

    Raises:
        InputError: no server answers, or it knows no such bucket or not these credentials.
    """
    inputs = {"storage": config.storage, "text.source": config.text.source, "activations.source": config.activations.source}
    inputs["train.init_from"] = config.train.init_from
    for name, uri in inputs.items():
        if uri is not None:
            backend_of(uri).require_reachable(uri, name)


def check_storage(storage: str) -> None:
    """Refuse a storage root that cannot be written, or whose server would let two runs overwrite each other.

    Raises:
        InputError: the folder (or the one it would be made in) is not writable, the bucket cannot be reached, or its
            server ignores create-only PUTs.
    """
    open_store(storage).require_writable(storage)


def _check_object_store(cluster: RayConfig) -> None:
    there, wanted = memory_bytes(), cluster.object_store_mb * 2**20
    if cluster.address is None and there is not None and wanted > there:
        raise InputError(
            f"ray.object_store_mb is {cluster.object_store_mb:,}, but this machine has {gib(there)} of memory in all. "
            "Lower it: activations never pass through the object store."
        )
