"""Matryoshka (https://arxiv.org/abs/2503.17547): BatchTopK, nested."""

from typing_extensions import override

from tasks.sae.architectures.batchtopk import BatchTopK
from tasks.sae.architectures.names import Description
from tasks.sae.config import SAEConfig

DESCRIPTION = Description(
    title="Matryoshka BatchTopK",
    about="BatchTopK whose first latents must rebuild the activation alone",
    k="batch",
    settings=("k", "k_start", "aux_k", "aux_coefficient", "prefixes"),
)


class Matryoshka(BatchTopK):
    """BatchTopK whose nested prefixes of latents must each rebuild the rows, so that the first ones stay general."""

    description = DESCRIPTION

    @override
    def bounds(self, config: SAEConfig) -> tuple[int, ...]:
        """Ends of the prefixes: given, or a 32nd, an eighth and a half of the latents, and all of them."""
        if config.prefixes is not None:
            return config.prefixes
        return tuple(sorted({max(1, config.d_sae // part) for part in (32, 8, 2, 1)}))


ARCHITECTURE = Matryoshka()
