"""Streams with known features, and SAELens' SAEs of them; both are made once and kept."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.score.truth import Recovery, TruthRows, recovery
from tests.benchmarks.peers.recorded import recorded
from tests.benchmarks.peers.venv import SAELENS, make_venv

_PEER = Path(__file__).with_name("peer.py")
_PIECE = 8192


@dataclass(frozen=True, kw_only=True)
class Data:
    """A stream: SAELens' synthetic model of a reduced size, or a toy of features that fire alike and alone."""

    kind: str
    seed: int
    samples: int
    features: int = 2048
    d_in: int = 256
    p: float = 0.0
    """Probability of firing (toy)."""
    held: int = 32_768
    """Rows that no SAE is trained on."""


class Stream:
    """A stream on disk, drawn by SAELens in its own environment."""

    def __init__(self, data: Data, cache: Path) -> None:
        """Draw the stream, or find it where it was drawn before."""
        self.data, self.folder = data, cache / f"{data.kind}-{_key(asdict(data))}"
        if not (self.folder / "finished").exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            _run_peer("make", self.folder, asdict(data))
            (self.folder / "finished").touch()
        self.train = np.load(self.folder / "train.npy", mmap_mode="r")
        self.held = np.load(self.folder / "held.npy", mmap_mode="r")
        self.directions = np.load(self.folder / "directions.npy")
        self._fires = np.load(self.folder / "fires.npy")

    @property
    def true_l0(self) -> float:
        """Mean number of features that fire on a held-out row."""
        return float(np.bitwise_count(self._fires).sum() / len(self._fires))

    def batches(self, size: int) -> Iterator[Tensor]:
        """Training rows in order, float32, whole batches."""
        for start in range(0, len(self.train) - size + 1, size):
            yield torch.from_numpy(self.train[start : start + size].astype(np.float32))

    def pieces(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Held-out rows: which, activations, and which features fire."""
        for start in range(0, len(self.held), _PIECE):
            cut = slice(start, start + _PIECE)
            fires = np.unpackbits(self._fires[cut], axis=1, count=len(self.directions)).astype(bool)
            yield cut, self.held[cut].astype(np.float32), fires


@dataclass(frozen=True, kw_only=True)
class PeerRun:
    """One training run of SAELens."""

    architecture: str
    sae: Mapping[str, Any]
    """Settings of its SAE beside widths."""
    d_sae: int
    batch: int
    lr: float
    dead_window: int
    """Steps; its default of 1,000 is a fifth of a run of 5M samples, and shorter runs are given a fifth too."""
    samples: int
    seed: int = 0


Peers = Literal["recorded", "missing", "all"]
"""Which of SAELens' SAEs are trained: none, those whose results are not recorded, or all."""


class NotRecordedError(LookupError):
    """What SAELens comes to is not known, and it is not to be trained."""


def peer_recovery(data: Data, cache: Path, run: PeerRun, peers: Peers = "missing") -> tuple[Recovery, float]:
    """What SAELens' SAE recovered, by our own metrics, and the seconds it trained.

    Raises:
        NotRecordedError: that is not known, and ``peers`` are not to be trained.
    """

    def measure() -> dict[str, Any]:
        stream = Stream(data, cache)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "peer.npz")
            _run_peer("train", stream.folder, asdict(run), out)
            found = dict(np.load(out))
        scores = recovery(found["W_dec"], stream.directions, _peer_rows(stream, found))
        return asdict(scores) | {"seconds": float(found["seconds"])}

    settings = {"benchmark": "truth", "library": SAELENS.version, "stream": asdict(data), "run": asdict(run)}
    known = recorded(settings, None if peers == "recorded" else measure, peers == "all")
    if known is None:
        raise NotRecordedError(str(settings["run"]))
    return Recovery(**{name: value for name, value in known.items() if name != "seconds"}), known["seconds"]


def _peer_rows(stream: Stream, found: Mapping[str, np.ndarray]) -> Iterator[TruthRows]:
    starts = np.concatenate([[0], found["counts"].cumsum()])
    for cut, x, fires in stream.pieces():
        counts = found["counts"][cut]
        entries = slice(starts[cut.start], starts[cut.start + len(counts)])
        codes = np.zeros((len(counts), len(found["W_dec"])), np.float32)
        codes[np.repeat(np.arange(len(counts)), counts), found["latents"][entries]] = found["values"][entries]
        yield TruthRows(x, codes, codes @ found["W_dec"] + found["b_dec"], fires)


def _run_peer(command: str, folder: Path, settings: Mapping[str, Any], *more: Path) -> None:
    python = make_venv("saelens").python
    done = subprocess.run(
        [python, str(_PEER), command, str(folder), json.dumps(settings), *map(str, more)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"SAELens failed to {command} {settings}:\n{done.stderr[-3000:]}")


def _key(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
