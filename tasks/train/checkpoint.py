"""A training run as files, so that it can go on where it was, on as many workers or on others.

Each part of the latents is a ``safetensors`` and a ``json`` file: ``state``, or ``state.0-of-2`` and so on.
"""

import hashlib
import logging
from dataclasses import asdict, replace

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tasks.errors import ArtifactError
from tasks.sae.mesh import Mesh, OneProcess, ProcessGroup, all_reduce_over_mesh
from tasks.sae.parameters import extra_of, joined, part_of, view
from tasks.storage.artifacts import to_json
from tasks.storage.base import ObjectStore
from tasks.storage.faults import DAMAGE, reason_of
from tasks.train.checkpoint_names import checkpoint_name, kept, part_name, prune
from tasks.train.checkpoint_parts import BUFFER, FLAT, Facts, read_parts
from tasks.train.curve import Meter
from tasks.train.loop import Run
from tasks.train.plan import Plan
from tasks.train.train_state import state_from

logger = logging.getLogger(__name__)

_ONE = OneProcess()
_NOT_WHOLE: tuple[type[Exception], ...] = (FileNotFoundError, *DAMAGE)
_BY_LATENT = ("silent",)


def run_to_files(run: Run, latents: ProcessGroup = _ONE) -> dict[str, bytes]:
    """Contents by file name: this worker's latents, of those that ``latents`` hold together.

    The ``json`` file carries the other's hash, so half a checkpoint is never taken for a whole.
    """
    state = run.state
    flats = (part.flat for part in (state.parameters, *state.moments))
    tensors = {
        **dict(zip(FLAT, flats, strict=True)),
        "silent": state.silent,
        **{f"{BUFFER}{name}": tensor for name, tensor in state.buffers.items()},
    }
    if state.averaged is not None:
        tensors["averaged"] = state.averaged
    data = tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    facts = {
        "step": state.step,
        "device": run.device,
        "spent": asdict(run.timing),
        "sha256": hashlib.sha256(data).hexdigest(),
        "curve": [asdict(row) for row in run.curve],
        "pending": [step.tolist() for step in run.meter.steps],
    }
    name = part_name(latents.rank, latents.world_size)
    return {f"{name}.safetensors": data, f"{name}.json": to_json(facts)}


def read_run(
    store: ObjectStore, folder: str, plan: Plan, device: str | torch.device = "cpu", latents: ProcessGroup = _ONE
) -> Run:
    """The run that was written below ``folder``, of it the latents that are this worker's.

    A worker reads its own part only, unless the run was in other parts when it was written: then all of them, and cuts
    its part out.

    Raises:
        ArtifactError: the checkpoint is not whole.
    """
    try:
        parts, facts = read_parts(store, folder, plan, latents)
    except (MemoryError, torch.OutOfMemoryError):  # of this machine, and says nothing of the checkpoint
        raise
    except _NOT_WHOLE as error:
        raise ArtifactError(f"The checkpoint {store.uri}/{folder} is not whole: {reason_of(error)}.") from None
    # The rest is outside: what goes wrong with whole files, such as a full GPU, must not make them count as damaged.
    is_own = len(parts[0]["silent"]) == plan.layout.d_sae // latents.world_size
    return _run_of(parts[0] if is_own else _cut(parts, plan, latents), facts, plan, device)


def _run_of(tensors: dict[str, Tensor], facts: Facts, plan: Plan, device: str | torch.device) -> Run:
    # Into memory of torch's own alignment: on that of the file's bytes, which changes, products differ in last bits.
    parameters, *moments = (tensors.pop(name).clone().to(device) for name in FLAT)
    d_own = len(tensors["silent"])
    own = replace(plan.layout, d_sae=d_own, extra=extra_of(plan.layout, d_own))
    state = state_from(view(parameters, own), plan, (moments[0], moments[1]), facts.step)
    state.silent.copy_(tensors["silent"])
    for name, buffer in state.buffers.items():
        buffer.copy_(tensors[f"{BUFFER}{name}"])
    if state.averaged is not None:
        state.averaged.copy_(tensors["averaged"])
    meter = Meter([torch.tensor(step, dtype=torch.float64, device=device) for step in facts.pending])
    return Run(state, facts.curve, meter, facts.timing)


def _cut(parts: list[dict[str, Tensor]], plan: Plan, latents: ProcessGroup) -> dict[str, Tensor]:
    """Of a state in parts, the one that is this worker's."""
    own = dict(parts[0])  # buffers belong to no latent
    for name in own.keys() - {name for name in own if name.startswith(BUFFER)}:
        pieces = [part[name] for part in parts]
        if name in _BY_LATENT:
            own[name] = torch.cat(pieces).chunk(latents.world_size)[latents.rank]
        else:
            own[name] = part_of(joined(pieces, plan.layout), latents.rank, latents.world_size).flat
    return own


def newest_run(
    store: ObjectStore, prefix: str, plan: Plan, device: str | torch.device = "cpu", mesh: Mesh = _ONE
) -> Run | None:
    """The furthest checkpoint below ``prefix`` that is whole to all workers, or None.

    One that a kill cut short is passed over, by all workers if one of them finds it so.

    Raises:
        ArtifactError: workers do not see the same storage.
    """
    folders = kept(store, prefix)
    _require_same(folders, store, prefix, device, mesh)
    for folder in reversed(folders):
        found, reason = None, "It is not whole to another worker."
        try:
            found = read_run(store, folder, plan, device, mesh.latents)
        except ArtifactError as error:
            reason = str(error)
        lacking = torch.tensor([float(found is None)], device=device)
        all_reduce_over_mesh(mesh, lacking)
        if not bool(lacking):
            return found
        logger.warning("checkpoint %s/%s is passed over: %s", store.uri, folder, reason)
    return None


def write_run(run: Run, store: ObjectStore, prefix: str, keep: int) -> None:
    """Write a checkpoint of a run that is one worker's alone below ``prefix``, and remove all but the newest ``keep``."""
    write_part(run, store, prefix)
    prune(store, prefix, keep)


def write_part(run: Run, store: ObjectStore, prefix: str, latents: ProcessGroup = _ONE) -> None:
    """Write this worker's latents of a checkpoint below ``prefix``, straight to where they stay."""
    for name, data in run_to_files(run, latents).items():
        store.put(f"{prefix}{checkpoint_name(run.state.step)}/{name}", data)


def _require_same(folders: list[str], store: ObjectStore, prefix: str, device: str | torch.device, mesh: Mesh) -> None:
    digest = torch.tensor([int(hashlib.sha256(repr(folders).encode()).hexdigest()[:12], 16)], device=device)
    everyone = mesh.data.all_gather(mesh.latents.all_gather([digest]))[0]
    if bool((everyone != digest).any()):
        where = f"{store.uri}/{prefix.rstrip('/')}"
        raise ArtifactError(f"Workers see different checkpoints below {where}. Storage must be shared by all machines.")
