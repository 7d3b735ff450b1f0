"""What becomes of a latent between two SAEs, and how alike two latents must be to count as one."""

from typing import Literal

import numpy as np
from jaxtyping import Bool

from tasks.identity.comparison import PairEvidence

Fate = Literal["same", "drifted", "split", "merged", "died", "born"]
OF_A: tuple[Fate, ...] = ("same", "drifted", "split", "merged", "died")
"""What a latent of A may come to: ``merged`` into a latent of B together with others, say."""
OF_B: tuple[Fate, ...] = ("same", "drifted", "split", "merged", "born")
"""What a latent of B may come from: ``split`` from a latent of A together with others, say."""

SAME = 0.9
"""Decoder cosine and correlation from which a latent is the same."""
DRIFTED = 0.7
"""Decoder cosine, and encoder cosine or correlation, from which it is still one latent."""


def same(evidence: PairEvidence) -> Bool[np.ndarray, "n"]:
    """Which pairs are one latent that stayed as it was; of seldom ones the decoder decides."""
    fires_alike = ~evidence.measured | (evidence.R >= SAME)
    return continued(evidence) & (evidence.C_d >= SAME) & fires_alike


def continued(evidence: PairEvidence) -> Bool[np.ndarray, "n"]:
    """Which pairs are one latent, the same or drifted. One that never fires does not continue one that does."""
    alike = (evidence.C_e >= DRIFTED) | (evidence.R >= DRIFTED)
    of_measured = alike & ~evidence.one_is_silent
    return (evidence.C_d >= DRIFTED) & np.where(evidence.measured, of_measured, True)
