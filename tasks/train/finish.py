"""The last act of training: the run becomes an SAE for raw activations, with its curve and the facts about it."""

import hashlib
from dataclasses import asdict
from typing import Any

from tasks.hook_roles import ENTRY, HookRoles
from tasks.sae.architectures.registry import architecture
from tasks.sae.checkpoint import save
from tasks.sae.mesh import ProcessGroup
from tasks.sae.model import SparseAutoencoder
from tasks.sae.parameters import joined, view
from tasks.sae.scaling import Scaling, Weights, fold, folding
from tasks.storage.artifacts import identity, to_json, write_manifest
from tasks.storage.objects import open_store
from tasks.train.curve import curve_to_parquet, spikes
from tasks.train.loop import Run
from tasks.train.plan import Plan
from tasks.train.run_settings import RunSettings
from tasks.train.train_state import TrainState

CURVE = "curve.parquet"
SAE_FILES = ("sae.safetensors", "config.json", CURVE)


def write_sae(config: RunSettings, plan: Plan, run: Run, scaling: Scaling, weights: Weights, out: str) -> dict[str, Any]:
    """Write weights, settings and curve; return what the manifest says."""
    summary = {"tokens": run.state.step * plan.batch_rows, "steps": run.state.step, "lr": plan.lr} | {
        name: value for name, value in asdict(run.curve[-1]).items() if name in ("loss", "fvu", "l0", "dead_fraction")
    }
    jumps = spikes(run.curve)
    if jumps:
        summary["spikes"] = jumps
    provenance = {
        **hooks_of(config.hooks),
        ENTRY: config.hooks.to_json(),
        "model": config.model,
        "revision": config.revision,
        "dtype": "float32",
        "scale": _common(scaling),
        "dead_after_tokens": plan.dead_after,
        "training": summary,
    }
    save(SparseAutoencoder(plan.sae, weights), out, provenance)
    store = open_store(out)
    store.put(CURVE, curve_to_parquet(run.curve))
    objects = {name: {"sha256": hashlib.sha256(store.get(name)).hexdigest()} for name in SAE_FILES}
    return {"training": summary, "objects": objects}


def close(config: RunSettings, activations: str, out: str, found: dict[str, Any], timing: dict[str, Any]) -> None:
    """Write run.json and, with what ``write_sae`` found, the manifest: from now on the SAE below ``out`` is finished."""
    open_store(out).put("run.json", to_json(timing))
    recipe = {"sae": asdict(config.sae), "train": config.train.recipe()}
    begun_from = {} if config.init_content is None else {"init_from": config.init_content}
    inputs = {"activations": identity(activations), **begun_from, **hooks_of(config.hooks)}
    write_manifest(out, {"format_version": 1, "stage": "saes", "recipe": recipe, **inputs, **found})


def finished_weights(plan: Plan, state: TrainState, scaling: Scaling, latents: ProcessGroup | None = None) -> Weights:
    """The tensors of the finished SAE, for raw activations; all of ``latents``, who hold parts of it, must come here."""
    layout = plan.layout
    flat = state.parameters.flat if state.averaged is None else state.averaged.clone()
    if latents is not None and latents.world_size > 1:
        flat = joined(latents.all_gather([flat])[0].chunk(latents.world_size), layout).flat
    parameters = view(flat, layout)
    source = scaling.columns(0, layout.d_in)
    output = scaling.columns(layout.d_in, layout.d_in + layout.d_out) if len(scaling.mean) > layout.d_in else source
    kind = architecture(plan.sae.arch)
    if kind.unit_norm_decoder and state.averaged is not None:
        parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True))
    return fold(parameters, source, output, kind.finished(parameters, state.buffers, folding(parameters, source)))


def hooks_of(roles: HookRoles) -> dict[str, Any]:
    """The hook that is read, for a crosscoder all of them in their order, and for a transcoder the one that is rebuilt."""
    several = {"hooks": list(roles.inputs)} if len(roles.inputs) > 1 else {}
    target = {"target_hook": roles.outputs[0]} if roles.outputs != roles.inputs else {}
    return {"hook": roles.first, **several, **target}


def _common(scaling: Scaling) -> float | list[float]:
    """The factor of all features, or of each where they differ."""
    scales: list[float] = scaling.scale.tolist()
    return scales[0] if len({*scales}) == 1 else scales
