"""Everything that the report shows, read from the directories of the stages before it."""

import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import ArtifactError
from tasks.hook_roles import HookRoles, roles_among, roles_in_scores
from tasks.latent_columns import described
from tasks.storage.artifacts import read_json, require_manifest
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.objects import open_store, require

LATENT_COLUMNS = ("latent", "n_active", "max_activation", "histogram", "promoted", "suppressed", "neighbours")
"""What the pages are built on; all else is shown where it is there."""
EXAMPLE_COLUMNS = (
    "latent",
    "rank",
    "kind",
    "activation",
    "sequence",
    "position",
    "title",
    "tokens",
    "token_activations",
    "peak",
)
CURVE_COLUMNS = ("tokens",)
_NO_CURVE = pa.table({"tokens": pa.array([], pa.int64())})
HEATMAP_COLUMNS = ("label", "latent", "activation")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one report is made from."""

    addresses: dict[str, str]
    """Stage name -> URI, in the order of the pipeline."""
    tokens: Json | None
    """Manifest of tokens/, or None for activations of the user's own."""
    activations: Json
    sae: Json
    """config.json of saes/."""
    roles: HookRoles
    """Hooks that the SAE reads and rebuilds."""
    summary: Json
    shuffle: Json | None
    """How well the training batches were mixed, where it was measured."""
    runs: dict[str, Json]
    """Stage name -> run.json; empty where the stage left none."""
    curve: pa.Table
    latents: pa.Table
    """Sorted by latent, which runs from 0 without gaps; its schema says how its columns are shown, or nothing."""
    examples: pa.Table
    """Sorted by latent, then top before lower quantiles, then rank."""
    heatmap: pa.Table | None

    @property
    def unit(self) -> str:
        """What a row of activations is: a token, or just a row of the user's own."""
        return "row" if self.tokens is None else "token"

    @property
    def n_latents(self) -> int:
        """Width of the SAE."""
        return int(self.latents.num_rows)


def read_inputs(tokens: str | None, activations: str, sae: str, scores: str) -> Inputs:
    """Read what the report shows; the stages' manifests must be there, but for that of an imported SAE, which has none.

    Raises:
        ArtifactError: a directory is unfinished, or a file of it is missing, damaged or lacks a column.
        InputError: it is not known at which hooks of the activations the SAE was scored.
    """
    addresses = {"tokens": tokens, "activations": activations, "sae": sae, "scores": scores}
    present = {stage: uri for stage, uri in addresses.items() if uri is not None}
    manifests = {stage: require_manifest(uri) for stage, uri in present.items() if stage != "sae"}
    settings, summary = _require_json(sae, "config.json"), _summary(scores)
    hooks = manifests["activations"]["hooks"]
    is_imported = settings.get("imported_from") is not None
    if not is_imported:
        require_manifest(sae)
    has_heatmap = open_store(scores).head("heatmap.parquet") is not None
    return Inputs(
        addresses=present,
        tokens=manifests.get("tokens"),
        activations=manifests["activations"],
        sae=settings,
        roles=roles_in_scores(summary) or roles_among(hooks, settings, sae, activations),
        summary=summary,
        shuffle=read_json(sae, "shuffle.json"),
        runs={stage: read_json(uri, "run.json") or {} for stage, uri in present.items()},
        curve=_NO_CURVE if is_imported else read_table(sae, "curve.parquet", CURVE_COLUMNS),
        latents=_sorted_latents(scores),
        examples=_sorted_examples(scores),
        heatmap=read_table(scores, "heatmap.parquet", HEATMAP_COLUMNS) if has_heatmap else None,
    )


def read_table(uri: str, key: str, columns: tuple[str, ...]) -> pa.Table:
    """A whole Parquet file, with at least ``columns``.

    Raises:
        ArtifactError: it is missing, not Parquet, or lacks a column.
    """
    try:
        table = pq.read_table(io.BytesIO(require(open_store(uri), key)))
    except FAULTS as error:
        raise ArtifactError(
            f"{uri}/{key} is not readable Parquet ({reason_of(error)}). Delete {uri} and run again."
        ) from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ArtifactError(f"{uri}/{key} lacks the columns {missing}. Delete {uri} and run again.")
    return table


def _require_json(uri: str, key: str) -> Json:
    value = read_json(uri, key)
    if value is None:
        raise ArtifactError(f"{uri}/{key} is missing. Delete {uri} and run again.")
    return value


def _summary(scores: str) -> Json:
    summary = _require_json(scores, "summary.json")
    metrics = summary.get("metrics", [])
    if not isinstance(metrics, list) or not all(_is_metric(each) for each in metrics):
        raise ArtifactError(
            f"{scores}/summary.json has metrics that are no list of names, values and definitions. Delete {scores} and run "
            "again."
        )
    return summary


def _is_metric(each: Any) -> bool:
    return isinstance(each, dict) and "value" in each and all(isinstance(each.get(k), str) for k in ("name", "definition"))


def _sorted_latents(scores: str) -> pa.Table:
    stored = read_table(scores, "latents.parquet", LATENT_COLUMNS)
    try:
        described(stored)
    except ValueError as error:
        raise ArtifactError(f"{scores}/latents.parquet: {error}. Delete {scores} and run again.") from None
    table = stored.sort_by("latent").replace_schema_metadata(stored.schema.metadata)  # which sorting may drop
    if table["latent"].to_pylist() != list(range(table.num_rows)):
        raise ArtifactError(
            f"{scores}/latents.parquet does not number its latents 0, 1, 2... Delete {scores} and run again."
        )
    return table


def _sorted_examples(scores: str) -> pa.Table:
    table = read_table(scores, "examples.parquet", EXAMPLE_COLUMNS)
    # "top" must come before "q1", "q2"...: as text it would come last.
    try:
        order = [-1 if kind == "top" else int(kind.removeprefix("q")) for kind in table["kind"].to_pylist()]
    except (ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{scores}/examples.parquet holds an unknown kind ({error}). Delete {scores} and run again."
        ) from None
    table = table.append_column("order", pa.array(order, pa.int32()))
    return table.sort_by([("latent", "ascending"), ("order", "ascending"), ("rank", "ascending")])
