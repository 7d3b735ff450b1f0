"""What nearness chance alone gives: the best cosine with a dictionary that has nothing in common with this one."""

import numpy as np
import torch

from tasks.encode.cosines import largest_cosines
from tasks.identity.directions import UnitDirections

_LATENTS = 2_048
_SEED = 0


def null_cosine(a: UnitDirections, b: UnitDirections) -> float:
    """The median best cosine of A's decoder rows with B's, whose features are shuffled, all rows alike.

    Rows keep their norms and their angles to each other, but have nothing to do with A's. Of F random rows in d dimensions
    it is about (2 ln F / d)^.5. Of A ``_LATENTS`` rows are looked at.
    """
    rng = np.random.default_rng(_SEED)
    rows = np.sort(rng.permutation(len(a.decoder))[:_LATENTS])
    features = torch.from_numpy(rng.permutation(b.decoder.shape[1])).to(b.decoder.device)
    chosen = a.decoder[torch.from_numpy(rows).to(a.decoder.device)]
    return float(largest_cosines(chosen, b.decoder[:, features])[0].median())
