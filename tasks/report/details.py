"""What a latent's panel shows, in chunks of latents that the page loads when it needs them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from tasks.report.contexts import Ragged, StoredContexts
from tasks.report.javascript import Strings
from tasks.report.numbers import significant

CHUNK_LATENTS = 64
"""Latents per file: about 200 kB with 14 contexts of 25 tokens each."""


def chunk_name(chunk: int) -> str:
    """Name of a chunk's data file."""
    return f"latents-{chunk:05d}"


def chunks(
    latents: pa.Table,
    contexts: StoredContexts,
    panels: list[int] | None,
    descent: Sequence[Mapping[str, Any]] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every chunk that holds a latent with a panel.

    In a chunk all text is in ``strings`` and referred to by number; latents are named by their number. ``descent`` is the
    line of descent of each latent, where that is known.
    """
    wanted = None if panels is None else set(panels)
    names = ("histogram", "promoted", "suppressed", "neighbours", "decoder_norm_share")
    lists = {name: Ragged.of(latents[name]) for name in names if name in latents.column_names}
    for first in range(0, latents.num_rows, CHUNK_LATENTS):
        members = range(first, min(first + CHUNK_LATENTS, latents.num_rows))
        kept = [latent for latent in members if wanted is None or latent in wanted]
        if kept:
            found = _chunk(lists, contexts, members, kept)
            if descent is not None:
                for latent in kept:
                    found["latents"][str(latent)]["descent"] = descent[latent]
            yield chunk_name(first // CHUNK_LATENTS), found


def _chunk(lists: dict[str, Ragged], contexts: StoredContexts, members: range, kept: list[int]) -> dict[str, Any]:
    strings, shares = Strings(), lists.get("decoder_norm_share")
    examples = _Examples(contexts, members, strings)
    described = {
        str(latent): {
            "histogram": lists["histogram"].row(latent).to_pylist(),
            "promoted": _logits(lists["promoted"], latent, strings),
            "suppressed": _logits(lists["suppressed"], latent, strings),
            "neighbours": _neighbours(lists["neighbours"], latent),
            "contexts": examples.of(latent),
            **({} if shares is None else {"shares": significant(shares.row(latent).to_numpy(), digits=3)}),
        }
        for latent in kept
    }
    return {"latents": described, "strings": strings.table()}


def _logits(column: Ragged, latent: int, strings: Strings) -> dict[str, list[Any]]:
    items = column.row(latent)
    if not len(items):
        return {"tokens": [], "logits": []}
    tokens = strings.add_all(items.field("token").to_pylist())
    return {"tokens": tokens, "logits": significant(items.field("logit").to_numpy(zero_copy_only=False))}


def _neighbours(column: Ragged, latent: int) -> dict[str, list[Any]]:
    items = column.row(latent)
    if not len(items):
        return {"latents": [], "cosines": []}
    return {
        "latents": items.field("latent").to_pylist(),
        "cosines": significant(items.field("cosine").to_numpy(zero_copy_only=False), digits=3),
    }


class _Examples:
    """Contexts of the latents of one chunk, whose tokens are encoded together."""

    def __init__(self, contexts: StoredContexts, members: range, strings: Strings) -> None:
        self._contexts = contexts
        self._start, stop = contexts.bounds(members.start, members.stop)
        encoded = contexts.tokens.rows(self._start, stop).fill_null("").dictionary_encode()
        number = strings.add_all(encoded.dictionary.to_pylist())
        self._tokens = [number[i] for i in encoded.indices.to_pylist()]
        self._values = significant(contexts.token_activations.rows(self._start, stop).to_numpy(zero_copy_only=False))
        table = contexts.table.slice(self._start, stop - self._start)
        self._plain = {name: table[name].to_pylist() for name in ("kind", "sequence", "position")}
        self._plain["activation"] = significant(table["activation"].to_numpy())
        self._plain["peak"] = contexts.peak[self._start : stop].tolist()
        self._plain["title"] = [None if text is None else strings.add(text) for text in table["title"].to_pylist()]

    def of(self, latent: int) -> dict[str, list[Any]]:
        """Columns of one latent's contexts, a list entry per context."""
        rows = self._contexts.rows_of(latent)
        columns = {name: values[rows.start - self._start : rows.stop - self._start] for name, values in self._plain.items()}
        columns["tokens"] = self._cut(self._tokens, self._contexts.tokens, rows)
        columns["values"] = self._cut(self._values, self._contexts.token_activations, rows)
        return columns

    def _cut(self, items: list[Any], column: Ragged, rows: range) -> list[list[Any]]:
        offsets = (column.offsets[rows.start : rows.stop + 1] - column.offsets[self._start]).tolist()
        return [items[a:b] for a, b in pairwise(offsets)]
