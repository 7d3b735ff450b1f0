"""Everything that was measured, and how it is written: tables, summary, timings, and the manifest last."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from tasks.sae import SparseAutoencoder
from tasks.score.columns import Latents, latents_table
from tasks.score.directions import directions
from tasks.score.job import ScoreJob
from tasks.score.roles import Roles
from tasks.score.splice import SpliceSums
from tasks.score.stats import ReconstructionSums
from tasks.score.summary import summary
from tasks.score.survey import Survey
from tasks.score.tables import WeightColumns, examples_table, heatmap_table, to_parquet
from tasks.storage.artifacts import identity, require_manifest, to_json, write_manifest
from tasks.storage.objects import open_store

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Results:
    """What all pieces of work found, added up."""

    survey: Survey
    splice: SpliceSums | None
    baselines: dict[str, dict[str, Any]]
    weights: WeightColumns
    examples: list[tuple[pa.Table, Int64[np.ndarray, "d_sae bins"]]]
    """Of each piece, the rows of examples.parquet and the histograms."""
    devices: dict[str, int | None]
    """What looked at the rows, with the most memory of it that was taken; None of CPUs."""


def write_results(job: ScoreJob, out: str, sae: SparseAutoencoder, results: Results, seconds: float) -> None:
    """Write scores/; equal results are equal bytes, but for run.json."""
    store = open_store(out)
    objects = _objects(job, sae, results)
    for key, data in objects.items():
        store.put(key, data)
    rows = results.survey.latents.n_tokens
    observed = {"seconds": seconds, "tokens": rows, "tokens_per_second": rows / seconds}
    store.put("run.json", to_json({**observed, "devices": results.devices}))
    manifest = {
        "format_version": FORMAT_VERSION,
        "stage": "scores",
        "recipe": {"score": job.settings.recipe(), **_hooks(job.roles)},
        "sae": identity(job.sae),
        "activations": identity(job.activations),
        "tokens": None if job.tokens is None else identity(job.tokens),
        "objects": {key: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for key, data in objects.items()},
    }
    write_manifest(out, manifest)


def _objects(job: ScoreJob, sae: SparseAutoencoder, results: Results) -> dict[str, bytes]:
    survey = results.survey
    histogram = sum((part for _, part in results.examples), np.zeros((), np.int64))
    latents = Latents(survey.latents, histogram, results.weights, directions(sae, job.roles))
    objects = {
        "latents.parquet": to_parquet(latents_table(latents)),
        "examples.parquet": to_parquet(examples_table([table for table, _ in results.examples])),
        "summary.json": to_json(_summary(job, sae, results)),
    }
    if survey.labels.rows:
        objects["heatmap.parquet"] = to_parquet(heatmap_table(survey.labels, survey.latents))
    return objects


def _summary(job: ScoreJob, sae: SparseAutoencoder, results: Results) -> dict[str, Any]:
    roles = job.roles
    about = {
        **_hooks(roles),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "eval_is_train": bool(require_manifest(job.activations).get("eval_is_train", False)),
    }
    if roles.kind == "transcoder":
        about["d_out"] = sae.d_out
    if roles.kind == "crosscoder":
        about["hooks"] = _by_hook(sae, roles, results.survey.rebuilt.by_hook)
    splice = results.splice.summary() if results.splice else None
    return summary(results.survey, splice, results.baselines, about, roles.kind)


def _hooks(roles: Roles) -> dict[str, Any]:
    """What is read and what is rebuilt."""
    if roles.kind == "sae":
        return {"hook": roles.inputs[0]}
    return {"kind": roles.kind, "input_hooks": list(roles.inputs), "output_hooks": list(roles.outputs)}


def _by_hook(sae: SparseAutoencoder, roles: Roles, sums: Sequence[ReconstructionSums]) -> list[dict[str, Any]]:
    shares = directions(sae, roles).norm_shares
    assert shares is not None  # several hooks are rebuilt
    return [
        {
            "hook": hook,
            "d_in": part.stop - part.start,
            "fvu": found.fvu,
            "cosine": found.mean_cosine,
            "shrinkage": found.shrinkage,
            "gamma": found.gamma,
            "decoder_norm_share": share,
        }
        for hook, part, found, share in zip(roles.outputs, roles.parts, sums, shares.mean(dim=0).tolist(), strict=True)
    ]
