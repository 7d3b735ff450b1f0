"""The page of a match: what became of the latents of one version of an SAE in the next. Static, without scripts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.report.numbers import DASH, number, percent
from tasks.report.pages import asset, page

CLASSES = {
    "same": "decoder cosine and correlation of at least .9",
    "drifted": "decoder cosine of at least .7, and as much of encoder cosine or correlation",
    "split": "one latent of A is the sum of two or three of B",
    "merged": "one latent of B is the sum of two or three of A",
    "died": "none of B continues it",
    "born": "it continues none of A",
}
"""What each class means, in the order in which they are shown."""
SHOWN = 100
"""Latents of each class in the page's tables."""
FILES = ("assets/site.css", "assets/identity.css", "assets/icon.svg", "index.html")
"""Keys of all files of the page."""
BINS = 40
LEFT, RIGHT, TOP, BOTTOM = 46.0, 552.0, 12.0, 200.0
"""Edges of a histogram's ground, in the units of its view box."""

Json = dict[str, Any]


def identity_page(summary: Mapping[str, Any], version: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Key and content of every file of the page.

    Args:
        summary: what ``saemill match --json`` prints.
        version: the rows of B's version in ``identity.parquet``.
    """
    for key in FILES[:3]:
        yield key, asset(key.rpartition("/")[2])
    yield FILES[3], _page(summary, version)


def _page(summary: Mapping[str, Any], version: pa.Table) -> bytes:
    first, last = summary["versions"]
    return page(
        "identity.html",
        title=f"{summary['name']}: latents of version {last} against version {first}",
        sentence=sentence(summary),
        shares=share_rows(summary["counts"]),
        yardsticks=yardsticks(summary),
        facts=facts(summary),
        charts=[chart for chart in charts(summary, version) if chart is not None],
        tables=tables(version),
        shown=SHOWN,
        table="identity.parquet",
    )


def sentence(summary: Mapping[str, Any]) -> str:
    """What the page tells, in words."""
    continued = summary["same"] + summary["drifted"]
    n_a, n_b = (sum(summary["counts"][side].values()) for side in ("a", "b"))
    return (
        f"{percent(continued)} of A's {n_a:,} latents go on in B: {percent(summary['same'])} the same, "
        f"{percent(summary['drifted'])} drifted. {percent(summary['born'])} of B's {n_b:,} are born. Codes were compared "
        f"over {summary['rows']:,} rows."
    )


def share_rows(counts: Mapping[str, Mapping[str, int]]) -> list[Json]:
    """For each class its meaning, and how many of A's and of B's latents have it; a bar is as long as the share."""
    return [
        {"name": name, "means": means} | {side: _share(found, name) for side, found in counts.items()}
        for name, means in CLASSES.items()
    ]


def _share(counts: Mapping[str, int], name: str) -> Json | None:
    """How many of an SAE's latents have a class; None where none can have it."""
    if name not in counts:
        return None
    share = counts[name] / max(1, sum(counts.values()))
    return {"count": number(counts[name]), "share": percent(share), "part": round(100 * share, 2)}


def yardsticks(summary: Mapping[str, Any]) -> list[Json]:
    """The match beside chance and beside another seed, without which its figures say nothing."""
    ceiling = summary["ceiling"]
    rows = [
        ("B", "this match", summary),
        ("Another seed", "the ceiling: A trained again on the same data", ceiling),
    ]
    found = [
        {
            "name": name,
            "means": means,
            "cosine": number(figures["cosine"], 3),
            "same": percent(figures["same"]),
            "drifted": percent(figures["drifted"]),
        }
        for name, means, figures in rows
        if figures is not None
    ]
    null = {"name": "Chance", "means": "the null: B with shuffled features", "same": DASH, "drifted": DASH}
    return [*found, null | {"cosine": number(summary["null"], 3)}]


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and remark of what else is to be known."""
    silent, alone = summary["silent"], summary["by_decoder_alone"]
    rows = [
        ("A", summary["a"], f"version {summary['versions'][0]}"),
        ("B", summary["b"], f"version {summary['versions'][1]}"),
        ("Rows compared", number(summary["rows"]), f"{summary['row_split']} rows"),
        ("Latents that never fire on them", f"{silent['a']:,} of A, {silent['b']:,} of B", ""),
        (
            "Judged by the decoder alone",
            f"{alone['a']:,} of A, {alone['b']:,} of B",
            f"neither the latent nor its nearest fires on {summary['least_rows']} rows",
        ),
    ]
    permuted, carried = summary["permuted"], summary["carried"]
    if permuted is not None:
        placed = f"{permuted['at_their_places']:,} matched latents at A's indices, {permuted['elsewhere']:,} elsewhere"
        rows.append(("Permuted copy of B", permuted["uri"], f"{placed}; the table's indices are its"))
    if carried is not None:
        kept = f"{carried['kept']:,} kept, {carried['recheck']:,} of them to be checked again"
        rows.append(("Rows carried over", kept, f"{carried['dropped']:,} dropped"))
    return rows


def charts(summary: Mapping[str, Any], version: pa.Table) -> list[Json | None]:
    """Histograms of B's latents: decoder cosine and correlation with the nearest of A."""
    own = version.filter(pc.is_valid(version["index"]))
    marks = [("chance", summary["null"])]
    if summary["ceiling"] is not None:
        marks.append(("another seed", summary["ceiling"]["cosine"]))
    return [
        histogram("Decoder cosine with the nearest latent of A", own["C_d"], own["class"], marks),
        histogram("Correlation of activations with it", own["R"], own["class"], []),
    ]


def histogram(
    title: str, values: pa.ChunkedArray, kinds: pa.ChunkedArray, marks: Sequence[tuple[str, float]]
) -> Json | None:
    """Stacked bars over 0 to 1 as places in the view box; numbers below 0 are in the first. None where there are none."""
    there = pc.is_valid(values)
    x, kind = values.filter(there).to_numpy(), np.array(kinds.filter(there).to_pylist(), object)
    if not len(x):
        return None
    bin_of = np.clip((x * BINS).astype(int), 0, BINS - 1)
    counts = {name: np.bincount(bin_of[kind == name], minlength=BINS) for name in CLASSES if (kind == name).any()}
    highest = int(sum(counts.values(), np.zeros(BINS, int)).max())
    bars, below = [], np.zeros(BINS)
    for name, found in counts.items():
        for i in np.flatnonzero(found):
            height = found[i] / highest * (BOTTOM - TOP)
            tip = f"{number(int(found[i]))} {name}, {i / BINS:.3f} to {(i + 1) / BINS:.3f}"
            y = BOTTOM - below[i] - height
            bars.append({"x": _x(i / BINS), "y": round(y, 1), "height": round(height, 1), "kind": name, "tip": tip})
            below[i] += height
    return {
        "title": title,
        "bars": bars,
        "width": round((RIGHT - LEFT) / BINS - 1, 1),
        "marks": [{"x": _x(min(1.0, max(0.0, at))), "name": f"{name} {at:.2f}"} for name, at in marks],
        "x_ticks": [{"at": _x(share), "text": f"{share:g}"} for share in (0, 0.25, 0.5, 0.75, 1)],
        "highest": number(highest),
        "kinds": list(counts),
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": BOTTOM,
    }


def tables(version: pa.Table) -> list[Json]:
    """For each class the latents of B and those that ended in A, those first that fire most."""
    found = []
    for name in CLASSES:
        rows = version.filter(pc.equal(version["class"], name)).sort_by(
            [("n_active", "descending"), ("stable_id", "ascending")]
        )
        if rows.num_rows:
            shown = [_row(row) for row in rows.slice(0, SHOWN).to_pylist()]
            found.append({"name": name, "total": number(rows.num_rows), "more": rows.num_rows > SHOWN, "rows": shown})
    return found


def _row(row: Mapping[str, Any]) -> Json:
    other = row["partner"] if row["partner"] is not None else row["nearest"]
    return {
        "stable_id": row["stable_id"],
        "where": "A only" if row["index"] is None else number(row["index"]),
        "other": number(other),
        "is_partner": row["partner"] is not None,
        "C_d": number(row["C_d"], 3),
        "C_e": number(row["C_e"], 3),
        "R": number(row["R"], 3),
        "n_active": number(row["n_active"]),
        "parents": ", ".join(row["parents"]),
    }


def _x(share: float) -> float:
    return round(LEFT + share * (RIGHT - LEFT), 1)
