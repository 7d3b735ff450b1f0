"""The ledger of a verdict: one JSON object, called by the hash of its content, so that it cannot be changed unseen."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.gates.metrics import METRICS
from tasks.gates.verdict import GateResult, Verdict, verdict
from tasks.storage.artifacts import to_json
from tasks.storage.objects import open_store

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class GateLedger:
    """What was held against what, and what came of it."""

    verdict: Verdict
    reason: str
    champion: str
    """Hash of its content."""
    challenger: str
    """Hash of its content."""
    activations: str
    """Identity of the rows that both were measured on."""
    rows: int
    blocks: int
    target_l0: float
    gates: tuple[GateResult, ...]

    @staticmethod
    def of(results: Sequence[GateResult], **about: Any) -> "GateLedger":
        """The ledger of some gates' results."""
        found, reason = verdict(results)
        return GateLedger(found, reason, gates=tuple(results), **about)

    def to_json(self) -> bytes:
        """Equal ledgers are equal bytes."""
        facts: Mapping[str, Any] = asdict(self)
        metrics = {result.metric: METRICS[result.metric].about for result in self.gates}
        return to_json({**facts, "format_version": FORMAT_VERSION, "metrics": metrics})


def write_ledger(ledger: GateLedger, folder: str) -> str:
    """Put a ledger into a folder or below an ``s3://`` prefix, in one piece; its URI. One that is there is the same."""
    data, store = ledger.to_json(), open_store(folder)
    key = f"{hashlib.sha256(data).hexdigest()}.json"
    store.put_if_absent(key, data)
    return f"{store.uri}/{key}"


def described(ledger: GateLedger) -> str:
    """The gates as a table, and the verdict in a sentence."""
    heads = ("gate", "champion", "challenger", "limit", "sigma", "outcome")
    cells = [heads, *(_cells(result) for result in ledger.gates)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([*(line.rstrip() for line in lines), f"{ledger.verdict}: {ledger.reason}"])


def _cells(result: GateResult) -> tuple[str, ...]:
    sigma = "-" if result.sigma is None else f"{result.sigma:.2g} ({result.sigma_from})"
    numbers = (result.champion, result.challenger, result.limit)
    return (f"{result.metric} ({result.kind})", *map(_number, numbers), sigma, result.outcome)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
