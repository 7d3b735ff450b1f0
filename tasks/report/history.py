"""The page of a registry's nights: how figures, identities and text changed from SAE to SAE. Static, without scripts."""

import json
from collections.abc import Callable, Mapping, Sequence
from posixpath import relpath
from typing import Any

from tasks.report.numbers import DASH, compact, duration, number, percent
from tasks.report.pages import asset, page
from tasks.storage.artifacts import MANIFEST, to_json
from tasks.storage.objects import open_store

ASSETS = ("site.css", "history.css", "icon.svg")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420.0, 150.0, 52.0, 408.0, 12.0, 122.0
"""Of a chart, and the edges of its ground, in the units of its view box."""

Json = dict[str, Any]
Night = Mapping[str, Any]
Figure = Callable[[Night], float | None]


def _metric(name: str) -> Figure:
    return lambda night: night["metrics"].get(name)


def kept_share(night: Night) -> float | None:
    """Share of the champion's latents that go on."""
    shares = night["shares"]
    return shares["same"] + shares["drifted"] if shares else None


CHARTS: Mapping[str, tuple[Figure, str]] = {
    "FVU": (_metric("fvu"), "Fraction of variance unexplained, on held-out rows of that night."),
    "L0": (_metric("l0"), "Latents active per row."),
    "Never firing": (_metric("dead_fraction"), "Share of latents that never fire on those rows."),
    "Same or drifted": (kept_share, "Share of the champion's latents that go on in that night's SAE."),
    "Corpus drift": (
        lambda night: night["corpus_drift"],
        "How far the mean activation has moved from the champion's rows, in deviations of a row.",
    ),
    "Rate drift": (
        lambda night: night["rate_drift"],
        "By what factor the rates of latents that go on changed, the median; 1 is not at all.",
    ),
}
"""Title, figure of a night, and what it means."""


def write(name: str, champion: int | None, nights: Sequence[Night], root: str) -> str:
    """Write the page over the one that is there; its URI.

    Args:
        name: of the registry.
        champion: the version that is it now; None: there is none.
        nights: their records as JSON, the oldest first.
        root: of the storage.
    """
    place = f"reports/{name}-nights"
    store = open_store(f"{root}/{place}")
    for key in ASSETS:
        store.put(f"assets/{key}", asset(key))
    store.put("nights.json", json.dumps(list(nights), indent=1, allow_nan=False).encode())
    store.put("index.html", history_page(name, champion, nights, place))
    # It says that this is a finished directory, in the words that a report has.
    store.put(
        MANIFEST, to_json({"format_version": 1, "stage": "nights", "title": f"Nights of {name}", "entry": "index.html"})
    )
    return store.uri


def history_page(name: str, champion: int | None, nights: Sequence[Night], place: str) -> bytes:
    """The page.

    Args:
        name: as of ``write``.
        champion: as of ``write``.
        nights: as of ``write``.
        place: where it lies below the root of the storage, as other pages do in the records.
    """
    return page(
        "history.html",
        title=f"Nights of {name}",
        sentence=_sentence(name, champion, nights),
        charts=[found for title, (figure, means) in CHARTS.items() if (found := _chart(title, figure, means, nights))],
        rows=[_row(night, champion, place) for night in reversed(nights)],
    )


def _sentence(name: str, champion: int | None, nights: Sequence[Night]) -> str:
    promoted = sum(night["promoted"] for night in nights)
    now = f"The champion is {name}@{champion}." if champion is not None else "There is no champion yet."
    counted = f"{len(nights)} night{'' if len(nights) == 1 else 's'}, {promoted} promoted by themselves."
    return f"{now} {counted} Each SAE is measured on held-out rows of its own night."


def _row(night: Night, champion: int | None, place: str) -> Json:
    shares = night["shares"]
    return {
        "version": night["version"],
        "is_champion": night["version"] == champion,
        "when": night["when"][:16].replace("T", " "),
        "against": DASH if night["champion"] is None else night["champion"],
        "verdict": night["verdict"] or ("first" if night["champion"] is None else DASH),
        "promoted": night["promoted"],
        "reason": night["reason"],
        "fvu": number(night["metrics"].get("fvu"), 3),
        "l0": number(night["metrics"].get("l0"), 3),
        "dead": percent(night["metrics"].get("dead_fraction")),
        "ce": number(night["metrics"].get("ce_recovered"), 4),
        "same": percent(shares.get("same")) if shares else DASH,
        "drifted": percent(shares.get("drifted")) if shares else DASH,
        "new": compact(night["new_tokens"]),
        "tokens": compact(night["tokens"]),
        "seconds": duration(night["seconds"]),
        "stored": DASH if night["stored_bytes"] is None else f"{compact(night['stored_bytes'])}B",
        "report": None if night["report"] is None else f"{relpath(night['report'], place)}/index.html",
        "match": None if night["matched"] is None else f"{relpath(night['matched'], place)}/index.html",
    }


def _chart(title: str, figure: Figure, means: str, nights: Sequence[Night]) -> Json | None:
    """A line through the nights that have this figure; None where fewer than two have."""
    found = [(at, night, value) for at, night in enumerate(nights) if (value := figure(night)) is not None]
    if len(found) < 2:
        return None
    low, high = _bounds([value for *_, value in found])
    points = [_point(at / (len(nights) - 1), (value - low) / (high - low), night, value) for at, night, value in found]
    return {
        "title": title,
        "means": means,
        "points": points,
        "line": " ".join(f"{point['x']},{point['y']}" for point in points),
        "ticks": [{"y": _y(share), "text": number(low + share * (high - low), 3)} for share in (0.0, 0.5, 1.0)],
        "first": f"version {nights[0]['version']}",
        "last": f"version {nights[-1]['version']}",
    }


def _point(across: float, up: float, night: Night, value: float) -> Json:
    x = round(LEFT + across * (RIGHT - LEFT), 1)
    tip = f"version {night['version']}, {night['when'][:10]}: {number(value, 4)}"
    return {"x": x, "y": _y(up), "tip": tip, "promoted": night["promoted"]}


def _y(share: float) -> float:
    return round(BOTTOM - share * (BOTTOM - TOP), 1)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis, with a little room; of equal values, room on both sides. No figure is below 0."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * high or 0.01
    return max(0.0, low - room), high + room
