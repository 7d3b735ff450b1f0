"""How much the rates have changed at which latents fire, of those that went on from one version to the next."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.identity.stored import read_line
from tasks.storage.objects import open_store, require

LATENTS = "latents.parquet"


def rate_drift(matched: str, scores_before: str, scores: str) -> float | None:
    """The median over continued latents of max(r, 1/r), r being the ratio of their rates; 1 is no change.

    Latents that never fire on the scored rows of one of the two are left out; None where all are.

    Args:
        matched: URI of a match.
        scores_before: URI of the scores of its first SAE.
        scores: URI of the scores of its second.

    Raises:
        InputError: something is not there.
        ArtifactError: something is damaged.
    """
    line = read_line(matched)
    here = line.table.filter(pa.compute.equal(line.table["version"], line.version))
    pairs = [(row["partner"], row["index"]) for row in here.select(["partner", "index"]).to_pylist()]
    both = np.array([pair for pair in pairs if None not in pair], np.int64).reshape(-1, 2)
    before, after = _rates(scores_before)[both[:, 0]], _rates(scores)[both[:, 1]]
    fire = (before > 0) & (after > 0)
    if not fire.any():
        return None
    return float(np.exp(np.median(np.abs(np.log(after[fire] / before[fire])))))


def _rates(scores: str) -> np.ndarray:
    found = pq.read_table(io.BytesIO(require(open_store(scores), LATENTS)), columns=["density"])
    return np.asarray(found["density"].to_numpy(), np.float64)
