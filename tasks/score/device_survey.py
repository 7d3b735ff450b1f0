"""The first look at held-out rows on a device: what ``survey.py`` finds, where all but the sums stays on the device."""

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

import torch

from tasks.activations.writer import Rows
from tasks.encode.chunks import encoded_on_device
from tasks.encode.moving import on_device
from tasks.encode.pieces import Piece
from tasks.sae import SparseAutoencoder
from tasks.score.config import ScoreConfig
from tasks.score.device_evidence import EvidenceOnDevice, TensorHits
from tasks.score.device_sums import LatentTally, rebuilt_sums
from tasks.score.examples import Evidence
from tasks.score.rebuilt import Rebuilt
from tasks.score.roles import Roles
from tasks.score.stats import LatentSums
from tasks.score.survey import LabelSums, Survey

_Sums = tuple[Rebuilt, LatentSums, LabelSums]


@torch.inference_mode()
def survey_on_device(
    sae: SparseAutoencoder,
    pieces: Iterable[tuple[Piece, Rows]],
    dtype: str,
    median_norms: Sequence[float],
    config: ScoreConfig,
    roles: Roles | None = None,
) -> list[Survey]:
    """Look at pieces' rows, chunk by chunk, on the device that holds the SAE.

    Each piece has sums of its own, so that they come to the same total whoever looked at it. The evidence of all pieces
    stands in the first one's survey: 65,536 latents keep 3.7M hits, which take a CPU seconds to sort for each addition.

    Args:
        sae: what is scored.
        pieces: in ascending order of rows, with their rows, the features of all hooks side by side.
        dtype: in which rows are stored.
        median_norms: of the held-out rows at each hook that is rebuilt.
        config: what evidence is kept.
        roles: which columns are read and rebuilt; all of them by default.

    Raises:
        InputError: there is no memory to encode a single row.
    """
    roles, none = roles or Roles(), Evidence.none(config)
    evidence = EvidenceOnDevice(none, sae.d_sae, sae.W_enc.device)
    sums = [_sums(sae, piece, rows, dtype, median_norms, roles, evidence) for piece, rows in pieces]
    kept = [evidence.kept(), *[none] * (len(sums) - 1)]
    return [
        Survey(rebuilt, latents, of_piece, labels) for (rebuilt, latents, labels), of_piece in zip(sums, kept, strict=True)
    ]


def _sums(
    sae: SparseAutoencoder,
    piece: Piece,
    rows: Rows,
    dtype: str,
    median_norms: Sequence[float],
    roles: Roles,
    evidence: EvidenceOnDevice,
) -> _Sums:
    """The sums of a piece's rows; their hits go to ``evidence``."""
    device = sae.W_enc.device
    sequence = torch.tensor(rows.sequence, device=device)
    tally, rebuilt, labels = LatentTally(sae.d_sae, device), list[Rebuilt](), LabelSums()
    for chunk in encoded_on_device(sae, [rows.activation[:, roles.reads]], dtype):
        part = slice(chunk.start, chunk.stop)
        target = on_device(rows.activation[part, roles.rebuilds], dtype, device) if roles.kind == "transcoder" else chunk.x
        rebuilt.append(rebuilt_sums(target, chunk.x_hat(), median_norms, roles))
        tally.add(chunk.codes)
        evidence.see(TensorHits.of(chunk.codes, piece.first + chunk.start, sequence[part]))
        if rows.label is not None:
            labels += LabelSums.of(rows.label[part], rows.sequence[part], chunk.codes.in_main_memory(), sae.d_sae)
    return reduce(add, rebuilt), tally.sums(), labels
