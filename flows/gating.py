"""``saemill gate``: a challenger held against the champion on frozen held-out rows, with a ledger of what came of it."""

from dataclasses import dataclass

import numpy as np
import torch

from flows.direct import DirectSettings, Inputs, model_of, settings_of
from flows.preflight import check_storage
from tasks.errors import InputError
from tasks.gates.ledger import GateLedger, write_ledger
from tasks.gates.measure import measure, shared_share, wanted_l0
from tasks.gates.rows import LEAST_BLOCKS, GateRows, gate_rows
from tasks.gates.sums import Estimate, LossSums
from tasks.gates.verdict import GateResult, judged
from tasks.progress import Listener
from tasks.sae import SparseAutoencoder, load
from tasks.sae.content import content_of
from tasks.score.config import ScoreConfig
from tasks.score.job import ScoreJob
from tasks.score.work import measure_splices, splice_sequences
from tasks.storage.artifacts import identity, read_manifest, root_of
from tasks.storage.objects import open_store


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command is given: URIs, and settings as with ``--set``."""

    champion: str
    challenger: str
    activations: str
    tokens: str | None = None
    """Those that were harvested, for the model's loss; None: it is not looked at."""
    repeats: tuple[str, ...] = ()
    """Trainings like the champion's with other seeds."""
    out: str | None = None
    """Where the ledger comes to lie; None: below the root of the activations."""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gated:
    """A ledger, and where it is."""

    ledger: GateLedger
    uri: str


def gated(asked: Asked, listener: Listener) -> Gated:
    """Measure both SAEs, judge, and write the ledger.

    Raises:
        InputError: an SAE is not there, or not of these activations; or a setting is wrong.
        ArtifactError: a directory is unfinished or damaged.
    """
    return gated_by(settings_of(asked.settings, ("gates", "model")), asked, listener)


def gated_by(settings: DirectSettings, asked: Asked, listener: Listener) -> Gated:
    """The same by settings that are there.

    Raises:
        InputError: an SAE is not there, or not of these activations.
        ArtifactError: a directory is unfinished or damaged.
    """
    folder = _folder(asked)
    check_storage(folder)
    saes = (asked.champion, asked.challenger, *asked.repeats)
    rows = gate_rows(asked.activations, saes, settings.gates.rows)
    look = _Look(asked, settings, rows, listener)
    champion, challenger, *repeats = (look.at(sae) for sae in saes)
    return _told(asked, look, judged(settings.gates.rules, champion, challenger, repeats), folder)


class _Look:
    """Looks at SAEs one after the other; the first is the champion."""

    def __init__(self, asked: Asked, settings: DirectSettings, rows: GateRows, listener: Listener) -> None:
        self.rows, self.target_l0 = rows, 0.0
        self._asked, self._settings, self._listener = asked, settings, listener
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._champion: SparseAutoencoder | None = None
        self._fires = torch.zeros(0, dtype=torch.bool)

    def at(self, uri: str) -> dict[str, Estimate]:
        """The metrics of an SAE that could be measured."""
        sae = load(uri, self._device)
        sums = measure(sae, self.rows, self._listener)
        if self._champion is None:
            self._champion, self._fires, self.target_l0 = sae, torch.from_numpy(sums.fires), wanted_l0(sae, sums)
        found = sums.estimates(self.target_l0)
        if _began_from(uri, self._asked.champion):
            found["shared"] = Estimate.exact(shared_share(self._champion, sae, self._fires))
        losses = _losses(self._asked, self._settings, self.rows, uri, self._device)
        return found if losses is None else found | {"ce_recovered": losses.recovered()}


def _losses(asked: Asked, settings: DirectSettings, rows: GateRows, sae: str, device: str) -> LossSums | None:
    """The model's losses by sequence; None where there are no tokens, or no model that predicts any."""
    if asked.tokens is None:
        return None
    model = model_of(Inputs(asked.champion, asked.activations, asked.tokens), settings.model)
    job = ScoreJob(
        settings=ScoreConfig(splice_tokens=settings.gates.splice_tokens),
        hooks=rows.roles,
        sae=open_store(sae).uri,
        activations=asked.activations,
        tokens=asked.tokens,
        model=None if model is None else model.absolute(),
        gpus=float(device == "cuda"),
    )
    sums = [part for part in measure_splices(job, [[n] for n in splice_sequences(job)]) if part is not None]
    if len(sums) < LEAST_BLOCKS:
        return None
    original, spliced, mean = (np.array([getattr(part, name) for part in sums]) for name in ("original", "sae", "mean"))
    return LossSums(original, spliced, mean)


def _told(asked: Asked, look: _Look, results: list[GateResult], folder: str) -> Gated:
    ledger = GateLedger.of(
        results,
        champion=content_of(asked.champion),
        challenger=content_of(asked.challenger),
        activations=identity(asked.activations),
        rows=look.rows.n_rows,
        blocks=int(look.rows.blocks[-1]) + 1,
        target_l0=look.target_l0,
    )
    return Gated(ledger, write_ledger(ledger, folder))


def _began_from(sae: str, champion: str) -> bool:
    return (read_manifest(sae) or {}).get("init_from") == content_of(champion)


def _folder(asked: Asked) -> str:
    if asked.out is not None:
        return asked.out
    uri = open_store(asked.activations).uri
    if uri.split("/")[-2:-1] != ["activations"]:
        raise InputError(
            f"{uri} is not below a folder 'activations', beside which the ledger could be put: say where with --out."
        )
    return f"{root_of(uri)}/gates"
