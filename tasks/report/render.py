"""The report stage: scores in, a static site out, which opens from disk and from a bucket without a network."""

import hashlib
import time
from collections.abc import Iterator
from typing import Any

from tasks.report import details, figures, kinds, overview, provenance, tables
from tasks.report.about import About
from tasks.report.contexts import StoredContexts
from tasks.report.descent import read_descent
from tasks.report.inputs import Inputs, read_inputs
from tasks.report.javascript import data_file
from tasks.report.pages import asset, page
from tasks.storage.artifacts import identity, read_manifest, to_json, write_manifest
from tasks.storage.objects import open_store

FORMAT_VERSION = 1
ASSETS = (
    "site.css",
    "icon.svg",
    "core.js",
    "tokens.js",
    "charts.js",
    "overview.js",
    "search.js",
    "table.js",
    "latent.js",
    "heatmap.js",
    "site.js",
)


def render(
    about: About, tokens: str | None, activations: str, sae: str, scores: str, out: str, matched: str | None = None
) -> None:
    """Write the site to ``out``, its manifest last; nothing happens where it is finished already.

    With ``matched``, the URI of a match whose last version is the SAE, panels show their latents' lines of descent.

    Files are written under their final names and always with the same bytes, so a killed run is simply repeated.

    Raises:
        ArtifactError: a directory of an earlier stage is unfinished or damaged.
        InputError: the SAE and the activations do not belong together.
    """
    if read_manifest(out) is not None:
        return
    began = time.monotonic()
    inputs = read_inputs(tokens, activations, sae, scores)
    descent = None if matched is None else read_descent(matched, sae)
    store = open_store(out)
    files: dict[str, dict[str, Any]] = {}
    for key, content in site(about, inputs, descent):
        store.put(key, content)
        files[key] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    store.put("run.json", to_json({"seconds": time.monotonic() - began, "tokens_per_second": None}))
    write_manifest(out, _manifest(about, inputs, files))


def site(about: About, inputs: Inputs, descent: list[dict[str, Any]] | None = None) -> Iterator[tuple[str, bytes]]:
    """Key and content of every file of the site; ``descent`` is each latent's line of descent, where that is known."""
    contexts = StoredContexts(inputs.examples, inputs.n_latents)
    panels = tables.with_panel(inputs.latents, about.settings.max_latents)
    statistics = inputs.activations["hooks"][inputs.roles.first].get("statistics", {}).get("train", {})
    for name in ASSETS:
        yield f"assets/{name}", asset(name)
    charts = {
        "curves": figures.training_curves(inputs.curve),
        "density": figures.density_histogram(inputs.summary),
        "norms": figures.position_norms(statistics),
    }
    yield _data("overview", charts)
    hooks = [row["hook"] for row in kinds.hook_rows(inputs.summary)]
    yield _data("index", tables.index(inputs.latents, contexts, panels, inputs.unit, hooks))
    yield _data("search", tables.search(inputs.latents, contexts))
    if inputs.heatmap is not None:
        yield _data("heatmap", figures.heat_map(inputs.heatmap))
    for name, chunk in details.chunks(inputs.latents, contexts, panels, descent):
        yield _data(name, chunk)
    yield "index.html", _page(about, inputs, charts)


def _data(name: str, value: Any) -> tuple[str, bytes]:
    return f"data/{name}.js", data_file(name, value)


def _page(about: About, inputs: Inputs, charts: dict[str, Any]) -> bytes:
    hook = inputs.activations["hooks"][inputs.roles.first]
    return page(
        "index.html",
        title=overview.title(about, inputs),
        sentence=overview.sentence(about, inputs),
        cards=overview.cards(inputs),
        metrics=overview.metrics(inputs.summary),
        ce=overview.ce_rows(inputs.summary),
        what=kinds.short(inputs.summary),
        baselines=figures.baselines(inputs.summary),
        by_hook=figures.by_hook(inputs.summary),
        charts=charts,
        eval_is_train=bool(inputs.summary.get("eval_is_train")),
        n_latents=inputs.n_latents,
        latent_columns=tables.shown_columns(inputs.latents),
        unit=inputs.unit,
        has_heatmap=inputs.heatmap is not None,
        corpus=provenance.corpus_rows(inputs.tokens),
        packing=provenance.packing(inputs.tokens),
        masks=provenance.mask_rows(hook),
        sample=provenance.sample(inputs.activations),
        norms=_norms(inputs),
        first_hook=inputs.roles.first if len(inputs.roles.all) > 1 else None,
        mixing=provenance.mixing_rows(inputs.shuffle),
        times=provenance.time_rows(inputs),
        settings=provenance.settings_yaml(about.shown),
        addresses=inputs.addresses,
        scripts=[name for name in ASSETS if name.endswith(".js")],
    )


def _norms(inputs: Inputs) -> list[tuple[str, provenance.Rows]]:
    """Heading and content of each table of norms: one for each hook."""
    hooks, summary = inputs.roles.all, inputs.summary
    if len(hooks) == 1:
        return [("Norms", provenance.norm_rows(inputs.activations["hooks"][hooks[0]], summary))]
    return [(f"Norms at {hook}", provenance.norm_rows(inputs.activations["hooks"][hook], {})) for hook in hooks]


def _manifest(about: About, inputs: Inputs, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "stage": "report",
        "title": overview.title(about, inputs),
        "entry": "index.html",
        "inputs": {stage: identity(uri) for stage, uri in inputs.addresses.items()},
        "files": files,
    }
