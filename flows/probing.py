"""A probe of this machine: as many processes as the run will have load the model, run it, and take training steps together.

    load the model to its hooks | passes through it | training steps of all workers | one shard written and read back

Each part begins in all processes at once, as they share cores and memory when the run is under way.
"""

import multiprocessing
import os
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING, Any

from flows.config import PipelineConfig
from flows.run_size import harvesters
from tasks.errors import InputError, SaemillError
from tasks.planner.accounts import FOLDER
from tasks.planner.measured import Measured
from tasks.planner.needs import shard_bytes
from tasks.planner.sizes import RunSize
from tasks.stage import Widths
from tasks.storage.objects import open_store

if TYPE_CHECKING:
    from torch import Tensor

PASSES_S, STEPS_S = 3.0, 1.0
"""What is measured takes about so long; to start processes and load the model takes most of the 20 s that there are."""
_PATIENCE_S = 300.0
"""For a model that takes minutes to load."""
_MOST_SHARD_BYTES = 64 * 2**20
_LEFTOVER_S = 600.0
_PROBE = ".probe-"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every process of a probe is told."""

    config: PipelineConfig
    widths: Widths
    processes: int
    workers: int
    """Of the processes, those that train."""
    began: float
    """Seconds since the epoch."""
    meeting: str
    """A file that is not there yet."""


def probe(config: PipelineConfig, size: RunSize) -> Measured:
    """Measure this machine's CPUs at a configuration whose precision is settled.

    Raises:
        InputError: the model cannot be loaded, or a process of the probe ended early.
    """
    began, there = time.time(), os.cpu_count() or 1
    workers = config.train.dealt_evenly(min(config.train.workers, there)) or 1
    harvesting = min(harvesters(config), there) if size.corpus is not None else 1
    processes = max(harvesting, workers)
    with tempfile.TemporaryDirectory(prefix="saemill-probe-") as folder:
        parts = _Parts(config, size.rows.widths, processes, workers, began, f"{folder}/meeting")
        found = _all_of(parts)
    write, read = _shard_speeds(config.storage, min(_MOST_SHARD_BYTES, shard_bytes(size.rows)))
    return Measured(
        at=began,
        seconds=time.time() - began,
        processes=processes,
        start_seconds=max(one["ready"] for one in found),
        flop_per_second=_flop_per_second(found, size),
        step_seconds=max(one["step"] for one in found if "step" in one) * workers / config.train.workers,
        product_flop_per_second=min(one["product"] for one in found if "product" in one),
        write_bytes_per_second=write,
        read_bytes_per_second=read,
    )


def _flop_per_second(found: list[dict[str, Any]], size: RunSize) -> float | None:
    if size.model is None:
        return None
    tokens_per_second: float = sum(one["tokens_per_second"] for one in found)
    return tokens_per_second * size.model.flop_to_hook / size.context_length


def _all_of(parts: _Parts) -> list[dict[str, Any]]:
    """What each process found."""
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(parts.processes, timeout=_PATIENCE_S)
    pipes = [spawn.Pipe(duplex=False) for _ in range(parts.processes)]
    processes = [
        spawn.Process(target=_work, args=(rank, parts, together, theirs), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, theirs in pipes:
        theirs.close()  # so that the end of a process is the end of its pipe
    try:
        return _answers([ours for ours, _ in pipes])
    finally:
        for process in processes:
            process.kill()
            process.join()


def _answers(pipes: "list[Connection[Any, Any]]") -> list[dict[str, Any]]:
    """Of all processes, or the first complaint: the others wait for whoever has ended."""
    found, waiting, until = list[dict[str, Any]](), list(pipes), time.monotonic() + _PATIENCE_S
    while waiting:
        ready = wait(waiting, max(0.0, until - time.monotonic()))
        if not ready:
            raise _failed("it did not answer")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                answer = pipe.recv()
            except EOFError:
                raise _failed("a process of it ended early, as for want of memory") from None
            if isinstance(answer, str):
                raise _failed(answer)
            found.append(answer)
            waiting.remove(pipe)
    return found


def _failed(reason: str) -> InputError:
    return InputError(f"The probe of this machine failed: {reason.rstrip('.')}. Plan with --no-probe, or name a --card.")


def _work(rank: int, parts: _Parts, together: Barrier, pipe: "Connection[Any, Any]") -> None:
    """One process of a probe."""
    os.dup2(2, 1)  # what libraries print goes to stderr
    try:
        pipe.send(_measured(rank, parts, together))
    except Exception as error:  # whatever it is, the process that waits has to hear of it
        pipe.send(str(error) if isinstance(error, SaemillError) else f"{type(error).__name__}: {error}")


def _measured(rank: int, parts: _Parts, together: Barrier) -> dict[str, Any]:
    import torch

    config = parts.config
    found: dict[str, Any] = {}
    torch.set_num_threads(max(1, int(config.harvest.cpus_per_actor)))
    rows = _harvested(parts, together, found) if config.activations.source is None else _made_up(parts, together, found)
    together.wait()
    if rank < parts.workers:
        torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
        found |= _trained(rank, parts, rows)
    return found


def _harvested(parts: _Parts, together: Barrier, found: dict[str, Any]) -> "Tensor":
    import torch

    from tasks.harvest.probe import load_engine, run_passes

    config, context_length = parts.config, parts.config.text.context_length
    engine = load_engine(config.harvest, config.model, context_length)
    found["ready"] = time.time() - parts.began
    together.wait()
    passes = run_passes(engine, config.harvest, context_length, PASSES_S)
    found["tokens_per_second"] = passes.tokens / passes.seconds
    return torch.cat([passes.activations[hook] for hook in config.roles.all], dim=1)


def _made_up(parts: _Parts, together: Barrier, found: dict[str, Any]) -> "Tensor":
    """Rows of as many features as the user's own have."""
    import torch

    import tasks.train.probe  # noqa: F401  # so that it is there when all are ready

    found["ready"] = time.time() - parts.began
    together.wait()
    width = sum(parts.widths[hook] for hook in parts.config.roles.all)
    return torch.randn(min(8192, parts.config.train.batch_tokens), width, generator=torch.Generator().manual_seed(0))


def _trained(rank: int, parts: _Parts, rows: "Tensor") -> dict[str, float]:
    import torch.distributed as dist

    from tasks.train.distributed import TorchMesh
    from tasks.train.probe import take_steps

    config, mesh = parts.config, None
    if parts.workers > 1:
        dist.init_process_group("gloo", f"file://{parts.meeting}", rank=rank, world_size=parts.workers)
        mesh = TorchMesh(config.train.latent_shards, parts.workers)
    d_in = sum(parts.widths[hook] for hook in config.roles.inputs)
    train = config.train.model_copy(update={"workers": parts.workers})
    speed = take_steps(config.sae, train, rows, d_in, STEPS_S, mesh)
    return {"step": speed.seconds, "product": speed.product_flop_per_second}


def _shard_speeds(storage: str, n_bytes: int) -> tuple[float, float]:
    """Bytes a second that a shard is written with and read back; nothing of it stays, nor of what a killed probe left."""
    store = open_store(f"{open_store(storage).uri}/{FOLDER}")
    data, key = os.urandom(2**20) * max(1, n_bytes // 2**20), f"{_PROBE}{uuid.uuid4().hex}"
    for info in list(store.list(_PROBE)):
        if info.modified < time.time() - _LEFTOVER_S:
            store.delete(info.key)
    try:
        began = time.perf_counter()
        store.put(key, data)
        written = time.perf_counter()
        store.get(key)
        return len(data) / (written - began), len(data) / (time.perf_counter() - written)
    finally:
        store.delete(key)


def depends_on(config: PipelineConfig, model: str, machine: str) -> Mapping[str, Any]:
    """All that a probe's figures depend on.

    Args:
        config: with its precision settled.
        model: the identity of its model, empty where there is none.
        machine: as it says of itself.
    """
    harvest, train = config.harvest, config.train
    return {
        "machine": machine,
        "model": model,
        "dtype": config.model.dtype,
        "hooks": list(harvest.hooks),
        "roles": config.roles.to_json(),
        "context_length": config.text.context_length,
        "batch_sequences": harvest.batch_sequences,
        "stored": harvest.dtype,
        "harvesters": harvesters(config),
        "cpus_per_actor": harvest.cpus_per_actor,
        "sae": [config.sae.arch, config.sae.d_sae, config.sae.k, config.sae.aux_k, config.sae.skip],
        "train": [train.batch_tokens, train.workers, train.latent_shards, train.cpus_per_worker, train.precision],
        "storage": config.storage,
    }
