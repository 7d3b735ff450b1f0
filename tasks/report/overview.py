"""The words and figures of the overview, ready to be set into the page."""

from dataclasses import dataclass
from typing import Any

from tasks.report import older_scores
from tasks.report.about import About
from tasks.report.inputs import Inputs
from tasks.report.kinds import keeps_k, noun, places, short
from tasks.report.numbers import compact, number, percent, shown

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Card:
    """One key figure."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table of metrics."""

    name: str
    value: str
    definition: str


def title(about: About, inputs: Inputs) -> str:
    """Heading of the report."""
    if about.settings.title is not None:
        return about.settings.title
    if not _of_a_model(inputs):
        return f"Latents of {_source_name(about, inputs)}"
    return f"{_model(inputs)} · {places(inputs.roles, arrow=True)}"


def sentence(about: About, inputs: Inputs) -> str:
    """What was made of what, in one sentence."""
    sae, name = inputs.sae, noun(inputs)
    k = f" (k = {sae['k']})" if keeps_k(inputs) and "k" in sae else ""
    article = "An" if name.startswith("L1") else "A"
    return (
        f"{article} {name} with {inputs.n_latents:,} latents{k}, {_origin(about, inputs)}, "
        f"scored on {number(inputs.summary.get('tokens'))} {_scored_rows(inputs)}."
    )


def cards(inputs: Inputs) -> list[Card]:
    """Key figures, most important first."""
    summary = inputs.summary
    fvu, dead = summary.get("fvu"), summary.get("dead_fraction")
    found = [
        Card("FVU", number(fvu, 3), "" if fvu is None else f"{percent(1 - fvu)} of variance explained"),
        Card("L0", number(summary.get("l0"), 3), f"of {inputs.n_latents:,} latents active per {inputs.unit}"),
        Card(
            "Dead latents",
            percent(dead, 2),
            "" if dead is None else f"{round(dead * inputs.n_latents):,} never fired when scored",
        ),
    ]
    if summary.get("ce"):
        ce = summary["ce"]
        found.append(
            Card("CE recovered", percent(summary.get("ce_recovered")), f"+{number(ce.get('delta_nats'), 3)} nats per token")
        )
    if summary.get("dense_fraction") is not None:
        found.append(Card("Dense latents", percent(summary["dense_fraction"], 2), "fire on more than a tenth of rows"))
    for stage, name in (("activations", "Harvest"), ("sae", "Training")):
        rate = inputs.runs[stage].get("tokens_per_second")
        if rate:
            found.append(Card(name, compact(rate), f"{inputs.unit}s per second"))
    return found


def metrics(summary: Json) -> list[Metric]:
    """Every metric that the summary lists, with its value and definition; in older ones, that it defines."""
    if "metrics" in summary:
        return [Metric(each["name"], shown(each["value"]), each["definition"]) for each in summary["metrics"]]
    definitions: dict[str, str] = summary.get("definitions") or {}
    return [Metric(name, shown(_lookup(summary, name)), definitions[name]) for name in older_scores.metrics(definitions)]


def ce_rows(summary: Json) -> list[tuple[str, str]]:
    """Cross-entropy of the model and of the model with the SAE or an ablation in it, in nats."""
    ce, what = summary.get("ce"), short(summary)
    if not ce:
        return []
    names = {
        "original": "Model as it is",
        "sae": f"{what[0].upper()}{what[1:]} spliced in",
        "mean_ablation": "Mean ablation",
        "zero_ablation": "Zero ablation",
        "kl": "KL divergence from the model as it is",
    }
    rows = [(text, f"{number(ce.get(key), 4)} nats") for key, text in names.items() if ce.get(key) is not None]
    rows.append(("Recovered against mean ablation", percent(ce.get("recovered_vs_mean"))))
    rows.append(("Recovered against zero ablation", percent(ce.get("recovered_vs_zero"))))
    rows.append(("Measured on", f"{number(ce.get('tokens'))} tokens"))
    return rows


def _origin(about: About, inputs: Inputs) -> str:
    """On how many activations of what the SAE was trained; of an imported one, for which it is used."""
    hooks, roles = inputs.activations["hooks"], inputs.roles
    widths = [sum(hooks[hook]["d_in"] for hook in ends) for ends in (roles.inputs, roles.outputs)]
    features = f"{widths[0]:,} features" if widths[0] == widths[1] else f"{widths[0]:,} and {widths[1]:,} features"
    rows = (inputs.sae.get("training") or {}).get("tokens", about.train_tokens)
    at = f"{places(roles)} of {_model(inputs)}" if _of_a_model(inputs) else f"from {_source_name(about, inputs)}"
    if rows is None:
        origin = inputs.sae.get("imported_from")
        return f"{f'imported from {origin}' if origin else 'used'} for activations ({features}) {at}"
    if not _of_a_model(inputs):
        return f"trained on {rows:,} activations ({features}) {at}"
    return f"trained on the activations ({features}) of {rows:,} tokens {at}"


def _scored_rows(inputs: Inputs) -> str:
    if inputs.summary.get("eval_is_train"):
        return "of the training rows themselves"
    return f"held-out {inputs.unit}s"


def _model(inputs: Inputs) -> str:
    name = str((inputs.activations.get("model") or {}).get("name") or "the model")
    return name.rstrip("/").rsplit("/", 1)[-1]


def _of_a_model(inputs: Inputs) -> bool:
    """Whether the activations were harvested, rather than the user's own."""
    return inputs.tokens is not None or inputs.activations.get("model") is not None


def _source_name(about: About, inputs: Inputs) -> str:
    """Of the file or folder of the user's own activations, else of the directory that holds them."""
    return (about.source or inputs.addresses["activations"]).rstrip("/").rsplit("/", 1)[-1]


def _lookup(summary: Json, name: str) -> Any:
    """The value under a name such as 'fvu' or 'ce.sae'."""
    value: Any = summary
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value
