"""The card of a hub repository: README.md, with its front matter, made of measured figures only.

What was not measured is left out. Front matter: https://huggingface.co/docs/hub/model-cards and its ``model-index``.
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.publish.dashboards import Dashboard, LatentContext, dashboards, number
from tasks.publish.hub import HubReader
from tasks.publish.scored import ScoredSae, hub_id
from tasks.storage.artifacts import require_manifest

FILE = "README.md"
LATENTS = 12
TAGS = ["sparse-autoencoder", "sae", "mechanistic-interpretability", "interpretability"]

_METRICS = {
    "fvu": "FVU",
    "fvu_without_high_norm": "FVU without high norms",
    "l0": "L0",
    "dead_fraction": "never fires",
    "dense_fraction": "fires on over 10 %",
    "ce_recovered": "CE recovered",
    "tokens": "held-out tokens",
}
_BASELINES = {
    "sae_same_rows": "the SAE, on the rows of the baselines",
    "pca": "PCA",
    "training_rows": "training rows as a frozen dictionary",
    "random_directions": "random directions as a frozen dictionary",
    "linear": "best linear map",
    "linear_rank_k": "best linear map of low rank",
    "mean": "the mean alone",
}
_MASKS = {
    "first_position": "first positions",
    "special": "special tokens",
    "padding": "padding",
    "norm_outlier": "outliers of norm",
}
_SPECIAL = re.compile(r"([\\`*_\[\]{}#|~$!-])")
_SHOWN_TOKENS = 8
_SHOWN_CONTEXTS = 3

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card says beside the figures."""

    name: str
    repo: str | None
    """ORG/NAME on the hub, where it is known."""
    license: str | None
    build: str
    """Which version of saemill made the folder."""


def card(found: Sequence[ScoredSae], told: Sequence[HubReader], facts: CardFacts) -> bytes:
    """README.md of the repository."""
    loader = PackageLoader("tasks.publish", "templates")
    # No autoescape: this is Markdown; ``text`` makes plain text of what comes from corpora and files.
    plain = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    measured = [name for name in _METRICS if any(_has(each, name) for each in found)]
    page = plain.get_template("card.jinja").render(
        facts=facts,
        saes=[_about(each, told, measured) for each in found],
        metrics=[_METRICS[name] for name in measured],
        definitions=_definitions(found),
        refused=[each for each in told if each.refused],
        model=hub_id(found[0].sae.belongs.model),
        revision=found[0].sae.belongs.revision,
        n_latents=LATENTS,
    )
    return f"---\n{front_matter(found, told, facts)}---\n\n{page}".encode()


def front_matter(found: Sequence[ScoredSae], told: Sequence[HubReader], facts: CardFacts) -> str:
    """What the hub reads, as YAML."""
    has_saelens = any(each.format == "saelens" and each.refused is None for each in told)
    base = hub_id(found[0].sae.belongs.model)
    return yaml.safe_dump(
        {
            "library_name": "saelens" if has_saelens else "saemill",
            **({"base_model": base} if base else {}),
            **({"license": facts.license} if facts.license else {}),
            "pipeline_tag": "feature-extraction",
            "tags": TAGS,
            "model-index": [{"name": facts.name, "results": [_result(each) for each in found]}],
        },
        sort_keys=False,
        allow_unicode=True,
    )


def text(raw: str) -> str:
    """Anything as plain text in Markdown, also in a table."""
    on_a_line = "".join(c if c.isprintable() else ("\N{RETURN SYMBOL}" if c == "\n" else " ") for c in raw)
    return _SPECIAL.sub(r"\\\1", html.escape(on_a_line, quote=False))


def _result(found: ScoredSae) -> Json:
    return {
        "task": {"type": "feature-extraction", "name": f"reconstruction at {found.id}"},
        "dataset": {"type": "held-out", "name": f"{found.summary['tokens']:,} held-out tokens"},
        "metrics": [
            {"type": name, "name": title, "value": number(found.summary[name])}
            for name, title in _METRICS.items()
            if name != "tokens" and _has(found, name)
        ],
    }


def _has(found: ScoredSae, name: str) -> bool:
    return found.summary.get(name) is not None


def _definitions(found: Sequence[ScoredSae]) -> list[tuple[str, str]]:
    """How the figures were computed, in the scores' own sentences."""
    stated = {name: sentence for each in found for name, sentence in each.summary.get("definitions", {}).items()}
    names = ["fvu", "fvu_without_high_norm", "l0", "dead_fraction", "dense_fraction", "ce.recovered_vs_mean", "tokens"]
    return [(name, stated[name]) for name in names if name in stated]


def _about(found: ScoredSae, told: Sequence[HubReader], measured: Sequence[str]) -> Json:
    belongs, config = found.sae.belongs, found.sae.config
    return {
        "id": found.id,
        "hooks": list(belongs.hooks),
        "target": belongs.target_hook,
        "arch": config.arch,
        "k": config.k if found.sae.kind == "topk" or "k" in _recipe(found, "sae") else None,
        "d_in": found.sae.d_in,
        "d_sae": found.sae.d_sae,
        "content": found.content,
        "figures": [_figure(found.summary.get(name)) for name in measured],
        "baselines": _baselines(found),
        "training": _training(found),
        "data": _data(found),
        "masked": _masked(found),
        "readers": {each.format: each.folder for each in told if each.sae == found.id and each.refused is None},
        "module": _module(belongs.hook),
        "latents": [_latent(each) for each in chosen(found)],
    }


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _recipe(found: ScoredSae, group: str) -> Json:
    stated = found.trained.get("recipe", {}).get(group)
    return stated if isinstance(stated, dict) else {}


def _baselines(found: ScoredSae) -> list[tuple[str, str]]:
    measured = found.summary.get("baselines") or {}
    named = [(title, measured[name].get("fvu")) for name, title in _BASELINES.items() if name in measured]
    return [(title, _figure(fvu)) for title, fvu in named if fvu is not None]


def _training(found: ScoredSae) -> list[tuple[str, str]]:
    training = found.sae.belongs.training
    known = {"tokens seen": training.get("tokens"), "steps": training.get("steps"), "learning rate": training.get("lr")}
    rows = [(name, _figure(value)) for name, value in known.items() if isinstance(value, int | float)]
    settings = {**_recipe(found, "sae"), **_recipe(found, "train")}
    wanted = ("k", "k_anneal_fraction", "l1_coefficient", "l0_coefficient", "batch_tokens", "precision", "seed")
    rows += [(name, str(settings[name])) for name in wanted if settings.get(name) is not None]
    origin = found.sae.belongs.imported_from
    return rows + ([("imported from", origin)] if origin else [])


def _data(found: ScoredSae) -> list[tuple[str, str]]:
    tokens = {} if found.tokens is None else require_manifest(found.tokens)
    recipe = tokens.get("recipe", {})
    known = {
        "tokens per sequence": tokens.get("context_length"),
        "training tokens harvested": tokens.get("n_tokens", {}).get("train"),
        "held-out tokens harvested": tokens.get("n_tokens", {}).get("eval"),
        "hash of the corpus": recipe.get("corpus_identity"),
        "hash of the model's files": recipe.get("model_identity"),
        "revision of the model": found.sae.belongs.revision,
        "activations": found.scored.get("activations") if "/" not in str(found.scored.get("activations")) else None,
    }
    return [(name, _figure(value) if isinstance(value, int) else str(value)) for name, value in known.items() if value]


def _masked(found: ScoredSae) -> str:
    """Which positions the SAE never saw, with their number in the training rows."""
    hook = found.activations.get("hooks", {}).get(found.sae.belongs.hook or "", {})
    counts = (hook.get("masked") or {}).get("train") or {}
    return ", ".join(f"{n:,} {_MASKS.get(rule, rule)}" for rule, n in sorted(counts.items()) if n)


def _module(hook: str | None) -> str | None:
    """The module whose output the SAE reads; None where it reads another place."""
    return None if hook is None or hook.endswith(":input") else hook.removesuffix(":output")


def chosen(found: ScoredSae) -> list[Dashboard]:
    """Latents for the card: evenly spaced by how often they fire, so that nobody picks the pretty ones."""
    density = found.latents["density"].to_numpy()
    with_contexts = np.unique(found.examples["latent"].to_numpy())
    firing = sorted(with_contexts[density[with_contexts] > 0].tolist(), key=lambda latent: (-density[latent], latent))
    n = min(LATENTS, len(firing))
    wanted = [firing[(2 * i + 1) * len(firing) // (2 * n)] for i in range(n)]
    shown = {each.latent: each for each in dashboards(found, wanted)}
    return [shown[latent] for latent in wanted]


def _latent(each: Dashboard) -> Json:
    return {
        "latent": each.latent,
        "density": _figure(each.density),
        "largest": _figure(each.largest),
        "promoted": [text(token.strip() or "\N{OPEN BOX}") for token, _ in each.promoted[:_SHOWN_TOKENS]],
        "contexts": [
            (_figure(context.values[context.peak]), "".join(_marked(context))) for context in each.contexts[:_SHOWN_CONTEXTS]
        ],
    }


def _marked(context: LatentContext) -> Iterator[str]:
    """The text with the token at which the latent fires in bold, whose spaces must stay outside of the asterisks."""
    peak = context.tokens[context.peak]
    bold = peak.strip() or peak
    before, _, after = peak.partition(bold)
    yield text("".join(context.tokens[: context.peak]) + before)
    yield f"**{text(bold)}**"
    yield text(after + "".join(context.tokens[context.peak + 1 :]))
