"""How well the batches of a run are mixed, measured before it begins and kept beside its SAE."""

import logging

from tasks.activations.loader.shuffle_quality import shuffle_quality
from tasks.activations.reader import Split
from tasks.storage.artifacts import to_json
from tasks.storage.objects import open_store
from tasks.train.config import TrainConfig
from tasks.train.source import RowSource

logger = logging.getLogger(__name__)

SHUFFLE = "shuffle.json"
# The measure reads where every row came from and holds 8 bytes for each; more than these would take minutes.
MOST_ROWS = 20_000_000


def tell_mixing(settings: TrainConfig, hook: str, source: RowSource, tokens: str | None, *outs: str) -> None:
    """Measure the first batches that the run will see, say the result in the log, and write it below each of ``outs``.

    Args:
        settings: batches, lanes and seed.
        hook: whose rows are read.
        source: the rows that are trained on. Of windows the first is measured, against a shuffle of its own rows.
        tokens: the tokens that were harvested; without them, sequences stand for documents.
        outs: directories of SAEs that are trained on these batches.

    Raises:
        ArtifactError: the activations are unfinished or damaged.
        InputError: there are fewer rows than lanes.
    """
    if source.is_rolling and all(open_store(out).head(SHUFFLE) is not None for out in outs):
        return  # the first window may be gone by now
    activations = source.activations if source.windows is None else source.windows.uri(0)
    rows = Split(activations, hook, "train").rows
    if rows > MOST_ROWS:
        logger.info("shuffle: not measured on more than %s rows", f"{MOST_ROWS:,}")
        return
    found = shuffle_quality(
        activations,
        hook,
        batch_rows=settings.batch_tokens,
        lanes=settings.lanes,
        seed=settings.seed,
        tokens=tokens,
    )
    for out in outs:
        open_store(out).put(SHUFFLE, to_json(found.to_json()))
    if not found.ideal:
        return
    if source.windows is not None:
        logger.info("shuffle: rows are mixed within windows, of which the first has %s rows", f"{rows:,}")
    line = "shuffle: two rows of a batch are from one %s %.3f times as often as in a uniform shuffle (standard error %.3f)"
    logger.info(line, found.source, found.ratio, found.ratio_error)
