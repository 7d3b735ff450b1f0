"""The last act of training: the run becomes an SAE for raw activations, with its curve and the facts about it."""

import hashlib
from dataclasses import asdict
from typing import Any

from tasks.config import PipelineConfig
from tasks.sae.checkpoint import save
from tasks.sae.model import SparseAutoencoder
from tasks.sae.scaling import Scaling, fold
from tasks.store.objects import open_store
from tasks.train.curve import curve_to_parquet
from tasks.train.loop import Run
from tasks.train.plan import Plan

CURVE = "curve.parquet"
SAE_FILES = ("sae.safetensors", "config.json", CURVE)


def write_sae(config: PipelineConfig, plan: Plan, run: Run, scaling: Scaling, out: str) -> dict[str, Any]:
    """Write weights, settings and curve; return what the manifest and (under ``timing``) run.json say."""
    summary = {"tokens": run.state.step * plan.batch_rows, "steps": run.state.step, "lr": plan.lr} | {
        name: value for name, value in asdict(run.curve[-1]).items() if name in ("loss", "fvu", "l0", "dead_fraction")
    }
    provenance = {
        "hook": config.hook,
        "model": config.model.name if config.activations.source is None else None,
        "revision": config.model.revision if config.activations.source is None else None,
        "dtype": "float32",
        "scale": scaling.scale,
        "dead_after_tokens": plan.dead_after,
        "training": summary,
    }
    save(SparseAutoencoder(plan.sae, fold(run.state.parameters, scaling)), out, provenance)
    store = open_store(out)
    store.put(CURVE, curve_to_parquet(run.curve))
    objects = {name: {"sha256": hashlib.sha256(store.get(name)).hexdigest()} for name in SAE_FILES}
    timing = {"training_seconds": run.seconds, "tokens_per_second": summary["tokens"] / run.seconds if run.seconds else None}
    return {"training": summary, "objects": objects, "timing": timing}
