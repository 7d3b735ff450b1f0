"""A training run as files, so that it can go on where it was: ``state.safetensors`` and ``state.json``."""

import hashlib
import json
from dataclasses import asdict

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from tasks.artifacts import to_json
from tasks.errors import ArtifactError
from tasks.sae.parameters import view
from tasks.store.objects import ObjectStore
from tasks.train.curve import CurveRow
from tasks.train.loop import Run
from tasks.train.plan import Plan
from tasks.train.spent import Spent
from tasks.train.step import state_from

TENSORS = "state.safetensors"
FACTS = "state.json"
_BUFFER = "buffer."


def run_to_files(run: Run) -> dict[str, bytes]:
    """Contents by file name. ``state.json`` carries the other's hash, so half a checkpoint is never taken for a whole."""
    state = run.state
    tensors = {
        "parameters": state.parameters.flat,
        "exp_avg": state.moments[0].flat,
        "exp_avg_sq": state.moments[1].flat,
        "silent": state.silent,
        **{f"{_BUFFER}{name}": tensor for name, tensor in state.buffers.items()},
    }
    if state.averaged is not None:
        tensors["averaged"] = state.averaged
    data = tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    facts = {
        "step": state.step,
        "spent": asdict(run.spent),
        "sha256": hashlib.sha256(data).hexdigest(),
        "curve": [asdict(row) for row in run.curve],
    }
    return {TENSORS: data, FACTS: to_json(facts)}


def read_run(store: ObjectStore, folder: str, plan: Plan, device: str | torch.device = "cpu") -> Run:
    """The run that was written below ``folder``.

    Raises:
        ArtifactError: the checkpoint is not whole.
    """
    try:
        facts = json.loads(store.get(f"{folder}/{FACTS}"))
        data = store.get(f"{folder}/{TENSORS}")
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise ArtifactError(f"{store.uri}/{folder}/{TENSORS} is not the file that {FACTS} was written with.")
        # Into memory of torch's own alignment: on that of the file's bytes, which changes, products differ in last bits.
        tensors = {name: tensor.clone() for name, tensor in tensors_from_bytes(data).items()}
    except (FileNotFoundError, ValueError, KeyError, SafetensorError) as error:
        raise ArtifactError(f"The checkpoint {store.uri}/{folder} is not whole: {error}.") from None
    parameters = view(tensors["parameters"].to(device), plan.layout)
    moments = tensors["exp_avg"].to(device), tensors["exp_avg_sq"].to(device)
    state = state_from(parameters, plan, moments, facts["step"])
    state.silent.copy_(tensors["silent"])
    for name, buffer in state.buffers.items():
        buffer.copy_(tensors[f"{_BUFFER}{name}"])
    if state.averaged is not None:
        state.averaged.copy_(tensors["averaged"])
    return Run(state, [CurveRow(**row) for row in facts["curve"]], Spent(**facts["spent"]))


def newest_run(store: ObjectStore, prefix: str, plan: Plan, device: str | torch.device = "cpu") -> Run | None:
    """The furthest whole checkpoint below ``prefix``, or None. One that a kill cut short is passed over."""
    found = [info.key for info in store.list(prefix) if info.key.endswith(f"/{FACTS}")]
    for key in sorted(found, reverse=True):
        try:
            return read_run(store, key.removesuffix(f"/{FACTS}"), plan, device)
        except ArtifactError:
            continue
    return None


def checkpoint_name(step: int) -> str:
    """Folder of a step's checkpoint; names sort by step."""
    return f"step-{step:012d}"
