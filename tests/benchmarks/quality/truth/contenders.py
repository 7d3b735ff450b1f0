"""SAELens' side of each architecture, by the recipes of its own documentation and benchmark."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How SAELens trains an architecture."""

    architecture: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    coefficient: str | None = None
    """Which setting decides the L0, where it is not given."""
    start: float = 1.0
    """Where the search for the coefficient begins; those below are where earlier ones ended, with 5M samples and k 8."""
    rises: bool = False
    """The L0 rises with the setting; the search's coefficient is then what it is divided by."""

    def value(self, coefficient: float) -> float:
        """What the setting is for a coefficient of the search, with which the L0 falls."""
        return 1 / coefficient if self.rises else coefficient


def peers(k: int, prefixes: tuple[int, ...], n_steps: int) -> dict[str, Peer]:
    """By our names for the architectures that both have, for L0 ``k``."""
    nested = {"k": k, "matryoshka_widths": list(prefixes), "use_matryoshka_aux_loss": True}
    tanh = {
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_bandwidth": 2.0,
        "jumprelu_init_threshold": 0.1,
        "pre_act_loss_coefficient": 3e-6,
        "jumprelu_ste_to_input": True,
        "l0_warm_up_steps": n_steps,
        "normalize_activations": "expected_average_only_in",
    }
    l1 = {"l1_warm_up_steps": n_steps // 20}
    return {
        "topk": Peer(architecture="topk", settings={"k": k}),
        "batchtopk": Peer(architecture="batchtopk", settings={"k": k}),
        "matryoshka": Peer(architecture="matryoshka_batchtopk", settings=nested),
        "jumprelu": Peer(architecture="jumprelu", coefficient="l0_coefficient", start=1.288),
        # Aiming at 8 it ended at 6.4, aiming at 11 at 7.8 and 8.2 (5M samples).
        "jumprelu_l0": Peer(
            architecture="jumprelu",
            settings={"jumprelu_sparsity_loss_mode": "quadratic"},
            coefficient="target_l0",
            start=0.09035,
            rises=True,
        ),
        "jumprelu_tanh": Peer(architecture="jumprelu", settings=tanh, coefficient="l0_coefficient", start=0.6592),
        "gated": Peer(architecture="gated", settings=l1, coefficient="l1_coefficient", start=2.375),
        "l1": Peer(architecture="standard", settings=l1, coefficient="l1_coefficient", start=2.18),
    }
