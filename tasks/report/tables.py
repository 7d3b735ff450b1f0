"""The table of latents: what is shown and sorted at once, and the text that is searched when somebody searches."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.latent_columns import LatentColumn, described
from tasks.report import older_scores
from tasks.report.contexts import Ragged, StoredContexts
from tasks.report.javascript import Strings
from tasks.report.numbers import significant

BUILT_ON = ("n_active", "max_activation")
"""Columns that the pages compute with, shown or not: which latents are dead, and how strong a context is."""
SHOWN_TOKENS = 4
"""Promoted tokens and peak tokens per row of the table."""
BEFORE_CHARACTERS, AFTER_CHARACTERS = 24, 64
"""Text kept on either side of the peak of the strongest context."""
SEARCH_CHARACTERS = 12_000_000
"""Context text that is searched, over all latents: 8 x 25 tokens of 4,608 latents are about 4.5 million."""


def index(
    latents: pa.Table, contexts: StoredContexts, panels: list[int] | None, unit: str, hooks: Sequence[str] = ()
) -> dict[str, Any]:
    """The table's columns, by latent.

    Args:
        latents: a row per latent.
        contexts: where they fire.
        panels: the latents that have one (None: all).
        unit: token or row.
        hooks: those between which a crosscoder's latents divide their decoder's norm.
    """
    strings = Strings()
    rows = range(latents.num_rows)
    promoted = Ragged.of(latents["promoted"])
    shown = shown_columns(latents)
    built_on = {name: significant(latents[name].to_numpy()) for name in BUILT_ON}
    return {
        "n": latents.num_rows,
        "unit": unit,
        "shown": [column.model_dump() for column in shown],
        "columns": built_on | {column.name: _values(latents, column) for column in shown},
        "fires": [strings.add_all(_peaks(contexts, latent)) for latent in rows],
        "promotes": [strings.add_all(_tokens(promoted, latent)[:SHOWN_TOKENS]) for latent in rows],
        "snippets": [_snippet(contexts, latent) for latent in rows],
        "strings": strings.table(),
        "panels": panels,
        "hooks": list(hooks),
    }


def shown_columns(latents: pa.Table) -> tuple[LatentColumn, ...]:
    """The columns of numbers that the table of latents shows, in its order."""
    found = described(latents)
    return older_scores.columns(latents) if found is None else found


def _values(latents: pa.Table, column: LatentColumn) -> list[float | int | None]:
    if column.style == "count":
        counts: list[float | int | None] = latents[column.name].to_pylist()
        return counts
    return significant(latents[column.name].to_numpy(), max(4, column.digits + 1))


def search(latents: pa.Table, contexts: StoredContexts, characters: int = SEARCH_CHARACTERS) -> dict[str, Any]:
    """For each latent its promoted tokens and the text of its strongest contexts, one per line.

    Very wide SAEs have more text than a page can load: each latent then gets an equal share of ``characters``, which
    goes to its strongest contexts, and ``complete`` is false.
    """
    promoted = Ragged.of(latents["promoted"])
    texts = [_texts(contexts, latent) for latent in range(latents.num_rows)]
    complete = sum(map(len, texts)) <= characters
    share = None if complete else max(80, characters // latents.num_rows)
    return {
        "promoted": ["\n".join(map(_one_line, _tokens(promoted, latent))) for latent in range(latents.num_rows)],
        "contexts": [text[:share] for text in texts],
        "complete": complete,
    }


def with_panel(latents: pa.Table, max_latents: int | None) -> list[int] | None:
    """The latents that get a panel, those that fire most first in line; None means all."""
    if max_latents is None or max_latents >= latents.num_rows:
        return None
    order = np.argsort(-latents["n_active"].to_numpy(), kind="stable")[:max_latents]
    return sorted(order.tolist())


def _tokens(promoted: Ragged, latent: int) -> list[str]:
    items: list[str] = promoted.row(latent).field("token").to_pylist() if len(promoted.values) else []
    return items


def _peaks(contexts: StoredContexts, latent: int) -> list[str]:
    peaks = (contexts.parts(row)[1] for row in contexts.top_rows(latent))
    return list(dict.fromkeys(peaks))[:SHOWN_TOKENS]


def _snippet(contexts: StoredContexts, latent: int) -> list[str]:
    rows = contexts.top_rows(latent)
    if not rows:
        return []
    before, peak, after = contexts.parts(rows[0])
    if len(before) > BEFORE_CHARACTERS:
        # From a whole word on, so that the line does not begin in the middle of one.
        before = "…" + re.sub(r"^\S*\s", "", before[-BEFORE_CHARACTERS:])
    return [before, peak[:AFTER_CHARACTERS], after[:AFTER_CHARACTERS]]


def _texts(contexts: StoredContexts, latent: int) -> str:
    return "\n".join(_one_line("".join(contexts.parts(row))) for row in contexts.top_rows(latent))


def _one_line(text: str) -> str:
    # A phrase is found across line breaks; the page does the same to what is typed.
    return " ".join(text.split())
