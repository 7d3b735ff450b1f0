"""The page of a sweep: its SAEs in a table, FVU against L0, and what seeds have in common. Static, without scripts."""

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.report.numbers import DASH, compact, duration, number, percent
from tasks.report.pages import asset, page
from tasks.report.provenance import settings_yaml
from tasks.storage.artifacts import identity, read_manifest, require_manifest, write_manifest
from tasks.storage.objects import open_store

FORMAT_VERSION = 1
TABLE, STABILITY = "table.parquet", "stability.parquet"
VARIED = {"arch": "Architecture", "d_sae": "Latents", "k": "k", "l1_coefficient": "L1 coefficient", "lr": "Learning rate"}
"""Columns of the table that a sweep can vary, with their headings; the seed apart."""
COLOURS = 8
"""Series that have colours of their own in sweep.css."""
LEFT, RIGHT, TOP, BOTTOM = 62.0, 846.0, 14.0, 330.0
"""Edges of the chart's ground, in the units of its view box."""

Json = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class AboutSweep:
    """What is told of a sweep beside its tables."""

    name: str
    source: str
    """Name of the model, or of the file of the user's own activations."""
    hooks: tuple[str, ...] = ()
    """None for the user's own activations."""
    train_tokens: int
    """Rows that each SAE sees."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """All settings, by group."""


def render_sweep(about: AboutSweep, activations: str, table: pa.Table, stability: pa.Table, out: str) -> None:
    """Write the page, the tables and, last, the manifest; nothing happens where it is finished already.

    Args:
        about: what is told of the sweep beside its tables.
        activations: what the SAEs were trained on; its manifest says whether any rows are held out.
        table: a row per SAE: member, arch, d_sae, k, l1_coefficient, lr, seed, state (finished or diverged), fvu, l0,
            dead_fraction (None where it diverged), training_seconds, sae (its address as seen from ``out``).
        stability: a row per pair of SAEs that differ in their seed only: member, seed_a, seed_b, shared, mmcs.
        out: where to.

    Raises:
        ArtifactError: the activations are unfinished or damaged.
    """
    if read_manifest(out) is not None:
        return
    store, files = open_store(out), dict[str, Json]()
    eval_is_train = bool(require_manifest(activations).get("eval_is_train"))
    for key, content in _files(about, table, stability, eval_is_train):
        store.put(key, content)
        files[key] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    title = f"Sweep {about.name}"
    manifest = {"format_version": FORMAT_VERSION, "stage": "sweeps", "title": title, "entry": "index.html", "files": files}
    write_manifest(out, manifest | {"activations": identity(activations), "saes": table["sae"].to_pylist()})


def _files(about: AboutSweep, table: pa.Table, stability: pa.Table, eval_is_train: bool) -> Iterator[tuple[str, bytes]]:
    for name in ("site.css", "sweep.css", "icon.svg"):
        yield f"assets/{name}", asset(name)
    for key, rows in ((TABLE, table), (STABILITY, stability)):
        sink = io.BytesIO()
        pq.write_table(rows, sink)
        yield key, sink.getvalue()
    yield "index.html", _page(about, table.to_pylist(), stability.to_pylist(), eval_is_train)


def _page(about: AboutSweep, rows: list[Row], pairs: list[Row], eval_is_train: bool) -> bytes:
    return page(
        "sweep.html",
        title=f"{about.name}: {len(rows)} SAEs of {' + '.join(about.hooks) or about.source}",
        sentence=_sentence(about, rows, eval_is_train),
        varied=[VARIED[name] for name in varied(rows)] + (["Seed"] if _differ(rows, "seed") else []),
        rows=table_rows(rows),
        chart=chart(rows),
        pairs=stability_rows(pairs),
        settings=settings_yaml(about.shown),
        files=[TABLE, STABILITY],
    )


def _sentence(about: AboutSweep, rows: list[Row], eval_is_train: bool) -> str:
    diverged = sum(row["state"] != "finished" for row in rows)
    lost = f" {diverged} of them ended with a loss that was not finite." if diverged else ""
    scored = "the training rows themselves" if eval_is_train else "held-out rows"
    return (
        f"Trained on the same {about.train_tokens:,} activations of {about.source}, in the same order and in one pass; FVU, "
        f"L0 and dead latents are those of {scored}.{lost}"
    )


def varied(rows: Sequence[Row]) -> list[str]:
    """Those of ``VARIED`` that are not the same in all rows."""
    return [name for name in VARIED if _differ(rows, name)]


def table_rows(rows: Sequence[Row]) -> list[Json]:
    """The table as text, with what the rows differ in and whether each is on the front."""
    names = [*varied(rows), *(["seed"] if _differ(rows, "seed") else [])]
    on_front = front(rows)
    return [
        {
            "values": [_value(row[name]) for name in names],
            "finished": row["state"] == "finished",
            "front": index in on_front,
            "fvu": number(row["fvu"], 4),
            "l0": number(row["l0"], 3),
            "dead": percent(row["dead_fraction"]),
            "seconds": duration(row["training_seconds"]),
            "sae": row["sae"],
        }
        for index, row in enumerate(rows)
    ]


def front(rows: Sequence[Row]) -> list[int]:
    """Rows that no other beats in FVU without having a larger L0, in the order of L0."""
    known = [i for i, row in enumerate(rows) if row["fvu"] is not None and row["l0"] is not None]
    best, found = math.inf, []
    for i in sorted(known, key=lambda i: (rows[i]["l0"], rows[i]["fvu"])):
        if rows[i]["fvu"] < best:
            best = rows[i]["fvu"]
            found.append(i)
    return found


def stability_rows(pairs: Sequence[Row]) -> list[Json]:
    """The pairs as text."""
    return [
        {
            "member": pair["member"] or DASH,
            "seeds": f"{pair['seed_a']} and {pair['seed_b']}",
            "shared": percent(pair["shared"]),
            "mmcs": number(pair["mmcs"], 3),
        }
        for pair in pairs
    ]


@dataclass(frozen=True, slots=True)
class Axis:
    """Numbers placed along a line, by their logarithm where they span more than a factor of four."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @staticmethod
    def over(values: Sequence[float], start: float, end: float) -> "Axis":
        """An axis with room around the values."""
        low, high = min(values), max(values)
        if low > 0 and high / low > 4:
            return Axis(low / 1.2, high * 1.2, start, end, log=True)
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return Axis(max(0.0, low - room) if low >= 0 else low - room, high + room, start, end, log=False)

    def at(self, value: float) -> float:
        """The place of a value."""
        place = math.log if self.log else float
        share = (place(value) - place(self.low)) / (place(self.high) - place(self.low))
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round numbers within the axis: about five, or 1, 2 and 5 times the powers of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low <= m * 10.0**p <= self.high]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
        return [float(v) for v in np.arange(math.ceil(self.low / step), math.floor(self.high / step) + 1) * step]


def chart(rows: Sequence[Row]) -> Json | None:
    """FVU against L0 of the rows that have both, as places in the view box; None where there are none."""
    known = [i for i, row in enumerate(rows) if row["fvu"] is not None and row["l0"] is not None]
    if not known:
        return None
    x = Axis.over([rows[i]["l0"] for i in known], LEFT, RIGHT)
    y = Axis.over([rows[i]["fvu"] for i in known], BOTTOM, TOP)
    names = _series(rows)
    points = [
        {
            "x": x.at(rows[i]["l0"]),
            "y": y.at(rows[i]["fvu"]),
            "series": names.index(_series_of(rows, i)) % COLOURS,
            "tip": f"{rows[i]['member']}: FVU {number(rows[i]['fvu'], 4)}, L0 {number(rows[i]['l0'], 3)}",
        }
        for i in known
    ]
    return {
        "points": points,
        "front": " ".join(f"{x.at(rows[i]['l0'])},{y.at(rows[i]['fvu'])}" for i in front(rows)),
        "x_ticks": [{"at": x.at(value), "text": compact(value)} for value in x.ticks()],
        "y_ticks": [{"at": y.at(value), "text": compact(value)} for value in y.ticks()],
        "series": [{"name": name, "series": i % COLOURS} for i, name in enumerate(names)] if len(names) > 1 else [],
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": BOTTOM,
    }


def _series(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(_series_of(rows, i) for i in range(len(rows))))


def _series_of(rows: Sequence[Row], index: int) -> str:
    """What colours a point: its architecture and its number of latents, as far as they vary."""
    row = rows[index]
    parts = [row["arch"]] if _differ(rows, "arch") else []
    parts += [f"{row['d_sae']:,} latents"] if _differ(rows, "d_sae") else []
    return ", ".join(parts)


def _differ(rows: Sequence[Row], name: str) -> bool:
    return len({row[name] for row in rows}) > 1


def _value(value: Any) -> str:
    return value if isinstance(value, str) else number(value, 3)
