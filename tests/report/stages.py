"""Directories as the stages before the report leave them, with invented but plausible content.

`python -m tests.report.stages FOLDER [--latents N]` writes them and the report on them, to be looked at.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.config import PipelineConfig, parse_config
from tests.composed import render

TEXT = (
    "The state of the Union is strong because our people are strong . We have seen a year of peace with foreign "
    "nations , and the revenue of the Treasury has grown by eleven million dollars . Congress will be asked to "
    "provide for the Navy , for the public lands , and for the Indian tribes west of the Mississippi .\n The war "
    "in Europe has ended ; our soldiers are coming home to their families , to schools and to jobs . I ask you to"
    " pass this law without delay . Health care , energy and the climate concern every citizen . President "
    "Lincoln said that a house divided cannot stand . In 1862 the railroad , the telegraph and the post office "
    "joined one coast to the other ."
)
VOCABULARY = [" " + word if word != "\n" else word for word in TEXT.replace("\n", "\n ").split(" ") if word]
TITLES = ["Abraham Lincoln, 1862", "Franklin D. Roosevelt, 1942", "George Washington, 1790", "Barack Obama, 2010"]
HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<!--",
    "\u2028",
    "\u202eabc",
    "مرحبا",
    "👩‍🚀",
    "\n\n",
    "\t",
    "'\"`${1}\\",
    "&lt;&#60;",
    "x" * 300,
    "{{ 7 * 7 }}",
    "\x00",
    "�",
]
DEFINITIONS = {
    "fvu": "Sum of squared errors over sum of squared deviations from the mean, over all held-out rows.",
    "l0": "Mean number of latents with an activation above zero per row.",
    "dead_fraction": "Share of latents that fired on no held-out row.",
    "dense_fraction": "Share of latents that fired on more than a tenth of the held-out rows.",
    "ce_recovered": "(CE with mean ablation - CE with the SAE) / (CE with mean ablation - CE of the model).",
    "ce.delta_nats": "CE with the SAE in the model less CE of the model, per token.",
    "l0_percentiles": "Percentiles of the number of active latents per row.",
    "cosine": "Mean cosine between a row and its reconstruction.",
    "shrinkage": "Mean squared norm of the reconstruction over mean dot product with the row; 1 is none.",
}
SUMMARY: dict[str, Any] = {
    "fvu": 0.0912,
    "l0": 31.97,
    "dead_fraction": 0.0117,
    "dense_fraction": 0.0024,
    "ce_recovered": 0.957,
    "ce": {
        "original": 3.214,
        "sae": 3.342,
        "zero_ablation": 9.81,
        "mean_ablation": 6.19,
        "delta_nats": 0.128,
        "kl": 0.094,
        "recovered_vs_zero": 0.9806,
        "recovered_vs_mean": 0.957,
        "tokens": 8192,
    },
    "baselines": {
        "mean": {"fvu": 1.0},
        "pca": {"fvu": 0.374, "components": 32},
        "random_directions": {"fvu": 0.658, "k": 32},
        "training_rows": {"fvu": 0.170, "k": 32},
        "sae_same_rows": {"fvu": 0.0921},
    },
    "fvu_without_high_norm": 0.131,
    "high_norm_fraction": 0.019,
    "cosine": 0.948,
    "shrinkage": 1.012,
    "l0_percentiles": {"5": 31, "50": 32, "95": 32},
    "tokens": 102_144,
    "definitions": DEFINITIONS,
    "eval_is_train": False,
}
LOGIT = pa.list_(pa.struct([("token", pa.string()), ("logit", pa.float64())]))
NEIGHBOUR = pa.list_(pa.struct([("latent", pa.int32()), ("cosine", pa.float64())]))
CONCEPTS = ["cat", "happy cat", "dog", "loyal dog", "not cat", "not dog", "robot", "AI assistant"]


@dataclass(frozen=True)
class Stages:
    """Where the directories are, and the settings they belong to."""

    config: PipelineConfig
    tokens: str | None
    activations: str
    sae: str
    scores: str

    def render(self, out: Path) -> Path:
        """The report on them."""
        render(self.config, self.tokens, self.activations, self.sae, self.scores, str(out))
        return out


def language_model_stages(root: Path, n_latents: int = 200, **report: Any) -> Stages:
    """A run on text. Latent 3 is hostile, latent 5 dead; latent 7 fires on ' Lincoln' and promotes ' emancipation'."""
    rng = np.random.default_rng(0)
    uris = [str(root / stage) for stage in ("tokens/run-0123456789ab", "activations/run-123456789abc")]
    _write_tokens(root / "tokens/run-0123456789ab")
    _write_activations(root / "activations/run-123456789abc", "model.layers.8", d_in=576)
    _write_sae(root / "saes/run-23456789abcd", n_latents)
    _write_scores(root / "scores/run-3456789abcde", rng, n_latents)
    config = parse_config({"text": {"source": "corpus/*.parquet"}, "sae": {"d_sae": n_latents}, "report": report})
    return Stages(config, *uris, str(root / "saes/run-23456789abcd"), str(root / "scores/run-3456789abcde"))


def labelled_stages(root: Path, n_latents: int = 12) -> Stages:
    """A run on labelled activations of the user's own: no tokens, no model, a heat map."""
    rng = np.random.default_rng(1)
    _write_activations(root / "activations/toy", "source", d_in=4)
    _write_sae(root / "saes/toy", n_latents)
    scores = root / "scores/toy"
    values = rng.exponential(1, (len(CONCEPTS), n_latents)) * (rng.random((len(CONCEPTS), n_latents)) < 0.4)
    _write_latents(scores, n_active=(values > 0).sum(axis=0), most=values.max(axis=0), logits=False)
    _write_examples(
        scores, [_row_of_own(i, j, values[i, j]) for j in range(n_latents) for i in np.argsort(-values[:, j])[:3]]
    )
    cells = [(CONCEPTS[i], j, values[i, j]) for i in range(len(CONCEPTS)) for j in range(n_latents)]
    heat = {
        "label": [c[0] for c in cells],
        "latent": pa.array([c[1] for c in cells], pa.int32()),
        "activation": [c[2] for c in cells],
    }
    _put_table(scores / "heatmap.parquet", pa.table(heat))
    edges = np.linspace(-2, 0, 11).tolist()
    density = {"edges": edges, "counts": [0, 0, 0, 0, 0, 1, 2, 4, 4, 1]}
    summary = {
        **SUMMARY,
        "ce": None,
        "ce_recovered": None,
        "tokens": 32,
        "eval_is_train": True,
        "density_histogram": density,
    }
    _finish(scores, {"summary.json": summary})
    config = parse_config(
        {"activations": {"source": "toy.npy"}, "sae": {"arch": "l1", "d_sae": n_latents}, "train": {"tokens": 4096}}
    )
    return Stages(config, None, str(root / "activations/toy"), str(root / "saes/toy"), str(scores))


def _write_tokens(folder: Path) -> None:
    counts = {"n_sequences": {"train": 3930, "eval": 437}, "n_tokens": {"train": 1_006_080, "eval": 111_872}}
    documents = {"n_documents": {"train": 210, "eval": 23}, "dropped_tail_tokens": {"train": 12, "eval": 190}}
    _finish(folder, {}, {**counts, **documents, "context_length": 256, "truncated_by_max_tokens": False})


def _write_activations(folder: Path, hook: str, d_in: int) -> None:
    positions = [602.3, 140.2, *np.round(127 + np.sin(np.arange(254) / 9), 2).tolist()] if d_in > 4 else []
    train = {
        "count": 1_001_000,
        "mean": [0.0] * d_in,
        "mean_square_norm": 21_804.0,
        "variance": 11_460.0,
        "gamma": 0.95,
        "median_norm": 118.3,
        "position_mean_norm": positions,
    }
    described = {
        "d_in": d_in,
        "dtype": "bfloat16",
        "splits": {"train": {"rows": 1_001_000, "shards": []}, "eval": {"rows": 111_300, "shards": []}},
        "masked": {
            "train": {"first_position": 3930, "special": 210, "norm_outlier": 47},
            "eval": {"first_position": 437, "special": 23, "norm_outlier": 5},
        },
        "statistics": {"train": train, "eval": train},
    }
    model = {"name": "SmolLM2-135M-Instruct"} if hook != "source" else None
    _finish(
        folder, {"run.json": {"seconds": 151.2, "tokens_per_second": 7430.0}}, {"hooks": {hook: described}, "model": model}
    )


def _write_sae(folder: Path, n_latents: int) -> None:
    steps = np.arange(0, 977, 4)
    noise = np.random.default_rng(2).normal(1, 0.02, len(steps))
    curve = {
        "step": steps,
        "tokens": steps * 1024,
        "loss": (0.1 + 0.9 * np.exp(-steps / 60)) * noise,
        "fvu": (0.09 + 0.9 * np.exp(-steps / 60)) * noise,
        "l0": np.full(len(steps), 32.0),
        "dead_fraction": 0.03 * np.exp(-((steps - 400) ** 2) / 40_000),
        "lr": 1e-3 * np.minimum(1, steps / 50) * np.minimum(1, (980 - steps) / 200),
        "grad_norm": noise,
    }
    _put_table(folder / "curve.parquet", pa.table(curve))
    arch = "topk" if n_latents > 12 else "l1"
    _finish(
        folder,
        {
            "config.json": {"arch": arch, "k": 32, "d_sae": n_latents, "training": {"tokens": 1_000_448}},
            "run.json": {"seconds": 122, "tokens_per_second": 8230},
        },
    )


def _write_scores(folder: Path, rng: np.random.Generator, n_latents: int) -> None:
    n_active = np.exp(rng.normal(5, 1.6, n_latents)).astype(int) + 1
    most = rng.gamma(4, 3, n_latents) + 1
    n_active[5] = most[5] = 0
    _write_latents(folder, n_active, most, logits=True)
    _write_examples(
        folder, [row for latent in range(n_latents) if n_active[latent] for row in _rows(rng, latent, most[latent])]
    )
    counts, edges = np.histogram(np.log10(n_active / 102_144 + 1e-10), bins=80, range=(-10, 0))
    _finish(folder, {"summary.json": {**SUMMARY, "density_histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}})


def _write_latents(folder: Path, n_active: np.ndarray, most: np.ndarray, logits: bool) -> None:
    rng = np.random.default_rng(3)
    n = len(n_active)
    shape = np.exp(-np.arange(20) / 5)
    table = {
        "latent": pa.array(range(n), pa.int32()),
        "density": n_active / 102_144,
        "n_active": n_active,
        "max_activation": most,
        "mean_activation": most / 3,
        "decoder_norm": rng.normal(1, 0.03, n),
        "encoder_decoder_cosine": rng.normal(0.6, 0.1, n),
        "histogram": [(active * shape / shape.sum()).astype(int).tolist() for active in n_active],
        "promoted": pa.array([_logits(rng, latent, 1) if logits else [] for latent in range(n)], LOGIT),
        "suppressed": pa.array([_logits(rng, latent, -1) if logits else [] for latent in range(n)], LOGIT),
        "neighbours": pa.array([_neighbours(rng, n) for _ in range(n)], NEIGHBOUR),
    }
    _put_table(folder / "latents.parquet", pa.table(table))


def _logits(rng: np.random.Generator, latent: int, sign: int) -> list[dict[str, Any]]:
    tokens = rng.choice(VOCABULARY, 10, replace=False).tolist()
    if latent == 3:
        tokens = HOSTILE[:10]
    if latent == 7 and sign > 0:
        tokens[0] = " emancipation"
    values = sign * np.sort(rng.gamma(3, 0.4, 10))[::-1]
    return [{"token": token, "logit": value} for token, value in zip(tokens, values.tolist(), strict=True)]


def _neighbours(rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    cosines = np.sort(rng.uniform(0.2, 0.8, 5))[::-1]
    return [{"latent": int(i), "cosine": c} for i, c in zip(rng.integers(0, n, 5), cosines.tolist(), strict=True)]


def _rows(rng: np.random.Generator, latent: int, most: float) -> list[dict[str, Any]]:
    kinds = ["top"] * 8 + ["q1", "q1", "q2", "q2", "q3", "q3"]
    rows = []
    for i, kind in enumerate(kinds):
        activation = most * (1 - i / 16)
        rank = i if kind == "top" else i % 2
        title = "<b>hostile title</b>" if latent == 3 else TITLES[int(rng.integers(len(TITLES)))]
        place = {"sequence": int(rng.integers(437)), "position": int(rng.integers(13, 240)), "document": 0, "title": title}
        rows.append(
            {
                "latent": latent,
                "rank": rank,
                "kind": kind,
                "activation": activation,
                "label": None,
                **place,
                **_text(rng, latent, activation),
            }
        )
    return rows


def _text(rng: np.random.Generator, latent: int, activation: float) -> dict[str, Any]:
    start = int(rng.integers(0, len(VOCABULARY) - 25))
    tokens = VOCABULARY[start : start + 25]
    values = np.where(rng.random(25) < 0.1, rng.random(25) * activation * 0.6, 0.0)
    values[12] = activation
    if latent == 3:
        tokens = (HOSTILE * 2)[:25]
    else:
        tokens[12] = " Lincoln" if latent == 7 else VOCABULARY[latent % len(VOCABULARY)]
    return {"tokens": tokens, "token_activations": values.tolist(), "peak": 12}


def _row_of_own(row: int, latent: int, activation: float) -> dict[str, Any]:
    place = {"sequence": int(row), "position": 0, "document": -1, "title": "", "label": CONCEPTS[row]}
    text: dict[str, Any] = {"tokens": [CONCEPTS[row]], "token_activations": [float(activation)], "peak": 0}
    return {"latent": latent, "rank": 0, "kind": "top", "activation": float(activation), **place, **text}


def _write_examples(folder: Path, rows: list[dict[str, Any]]) -> None:
    texts, numbers = pa.list_(pa.string()), pa.list_(pa.float32())
    types = {
        "latent": pa.int32(),
        "rank": pa.int32(),
        "kind": pa.string(),
        "activation": pa.float32(),
        "sequence": pa.int64(),
    }
    types |= {"position": pa.int32(), "document": pa.int32(), "title": pa.string(), "label": pa.string(), "peak": pa.int32()}
    types |= {"tokens": texts, "token_activations": numbers}
    _put_table(folder / "examples.parquet", pa.Table.from_pylist(rows, pa.schema(types)))


def _put_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _finish(folder: Path, files: dict[str, dict[str, Any]], manifest: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in {**files, "manifest.json": {"format_version": 1, **(manifest or {})}}.items():
        (folder / name).write_text(json.dumps(value))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latents", type=int, default=4608)
    arguments = parser.parse_args()
    language_model_stages(arguments.folder / "lm", arguments.latents).render(arguments.folder / "lm/report")
    labelled_stages(arguments.folder / "toy").render(arguments.folder / "toy/report")


if __name__ == "__main__":
    _main()
