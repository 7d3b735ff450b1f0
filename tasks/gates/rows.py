"""The frozen held-out rows that both SAEs are measured on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.activations.manifest import require_hooks
from tasks.activations.multi_hook import AnySplit, open_split
from tasks.encode.pieces import Piece, cut
from tasks.errors import InputError
from tasks.gates.sums import blocks_of
from tasks.hook_roles import HookRoles, roles_among
from tasks.sae.content import FILES
from tasks.storage.artifacts import read_json, require_manifest
from tasks.storage.paths import shown

LEAST_BLOCKS = 8
"""Of fewer, a draw of blocks says little."""


@dataclass(frozen=True, slots=True)
class GateRows:
    """Rows of the hooks that the SAEs read and rebuild, and which block each is of."""

    activations: str
    roles: HookRoles
    split: AnySplit
    pieces: tuple[Piece, ...]
    sequences: npt.NDArray[np.int64]
    """All sequences that rows are of, in ascending order."""
    blocks: npt.NDArray[np.int64]
    """The block of each sequence."""
    mean: npt.NDArray[np.float64]
    """[d_out]: of the training rows of what is rebuilt."""
    scale: npt.NDArray[np.float64]
    """[d_out]: what features are multiplied by so that hooks weigh by their width; of one hook, 1."""

    @property
    def reads(self) -> slice:
        """Columns that are encoded."""
        return slice(None) if len(self.roles.all) == 1 else slice(0, self._width(self.roles.inputs))

    @property
    def rebuilds(self) -> slice:
        """Columns that are rebuilt."""
        return slice(None) if len(self.roles.all) == 1 else slice(self.split.d_in - len(self.mean), self.split.d_in)

    @property
    def d_in(self) -> int:
        """Features that are encoded."""
        return self._width(self.roles.inputs)

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return sum(piece.rows for piece in self.pieces)

    def block_of(self, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The block of each row, by its sequence."""
        return np.asarray(self.blocks[np.searchsorted(self.sequences, sequences)])

    def _width(self, hooks: tuple[str, ...]) -> int:
        widths = dict(zip(self.roles.all, (part.d_in for part in self.split.parts), strict=True))
        return sum(widths[hook] for hook in hooks)


def gate_rows(activations: str, saes: tuple[str, ...], max_rows: int) -> GateRows:
    """The first ``max_rows`` held-out rows of the hooks of some SAEs, which must be the same hooks.

    Raises:
        InputError: an SAE is not there, is of other hooks, or there are too few sequences to draw from.
        ArtifactError: the activations are unfinished or damaged.
    """
    there = require_hooks(activations, require_manifest(activations))
    found = [roles_among(there, _settings(sae), sae, activations) for sae in saes]
    for sae, roles in zip(saes, found, strict=True):
        if roles != found[0]:
            raise InputError(
                f"{saes[0]} is an SAE of {found[0]} and {sae} one of {roles}: they are of no use to each other."
            )
    roles = found[0]
    split = open_split(activations, roles.all, "eval")
    pieces = tuple(cut(split, max_rows))
    sequences = _sequences(split, pieces)
    if len(sequences) < LEAST_BLOCKS:
        raise InputError(
            f"{activations} has held-out rows of {len(sequences)} sequences, but {LEAST_BLOCKS} are the least by which "
            "chance can be told from change. Harvest more text, or raise text.eval_fraction or gates.rows."
        )
    parts = dict(zip(roles.all, split.parts, strict=True))
    of_outputs = [parts[hook] for hook in roles.outputs]
    mean = np.concatenate([np.asarray(part.statistics["mean"], np.float64) for part in of_outputs])
    scales = [
        (part.d_in / part.statistics["variance"]) ** 0.5 if part.statistics["variance"] > 0 else 1.0 for part in of_outputs
    ]
    scale = np.repeat(scales, [part.d_in for part in of_outputs]) if len(of_outputs) > 1 else np.ones(len(mean))
    return GateRows(activations, roles, split, pieces, sequences, blocks_of(sequences), mean, scale)


def _sequences(split: AnySplit, pieces: tuple[Piece, ...]) -> npt.NDArray[np.int64]:
    ends = {piece.shard: piece.stop for piece in pieces}  # those of a shard follow each other from its first row on
    parts = [np.unique(split.places(shard)[0][:stop]) for shard, stop in ends.items()]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))


def _settings(sae: str) -> dict[str, object]:
    settings = read_json(sae, FILES[1])
    if settings is None:
        raise InputError(
            f"There is no SAE at {shown(sae)}: a directory with {' and '.join(FILES)} was expected, as saemill train or "
            "saemill import prints it."
        )
    return settings
