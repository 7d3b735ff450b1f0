"""The SAEs of a sweep as settings of their own, and which worker trains which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import InputError
from tasks.sae.architectures.registry import layout
from tasks.sae.config import SAEConfig
from tasks.train.config import TrainConfig
from tasks.train.sweep.config import SweepConfig, described

STATES = 4
"""Float32 numbers held for each parameter: itself, two moments of Adam, the gradient."""


@dataclass(frozen=True, slots=True)
class Member:
    """One SAE of a sweep."""

    label: str
    """What sets it apart from the others, such as 'd_sae 1152, seed 0'."""
    but_seed: str
    """The same without the seed, which several may share."""
    sae: SAEConfig
    train: TrainConfig
    """As of a run of its own, as ``sae``."""

    @property
    def values(self) -> dict[str, Any]:
        """All that a sweep can vary, by the name of the setting; None: chosen by the run."""
        named = {name: getattr(self.sae, name) for name in SweepConfig.of_sae.values()}
        return named | {"lr": self.train.lr, "seed": self.train.weights_seed}


def members(sweep: SweepConfig, sae: SAEConfig, train: TrainConfig) -> list[Member]:
    """Every combination of the sweep's lists, each with the settings that a run of its own would have.

    Raises:
        InputError: the sweep has no lists, latents are to be spread over workers, or W&B is to show many runs at once.
    """
    if not sweep.lists:
        names = ", ".join(f"sweep.{name}" for name in SweepConfig.model_fields)
        raise InputError(f"The sweep is empty: give one of {names} a list of values, such as --set sweep.k='[16, 32, 64]'.")
    if train.latent_shards > 1:
        raise InputError(
            f"train.latent_shards is {train.latent_shards}, but a sweep trains each SAE whole, on one worker: "
            "set it to 1, or train such an SAE by itself."
        )
    if train.init_from is not None:
        raise InputError(
            "train.init_from is set, but SAEs of a sweep begin from drawn weights, so that they can be compared: leave it "
            "empty, or go on with an SAE by itself, by saemill train."
        )
    if train.wandb is not None:
        raise InputError("train.wandb is set, but W&B shows one run per process: use train.mlflow or train.tensorboard.")
    return [_member(sweep, sae, train, point) for point in sweep.points()]


def _member(sweep: SweepConfig, sae: SAEConfig, train: TrainConfig, point: dict[str, Any]) -> Member:
    but_seed = {name: value for name, value in point.items() if name != "seeds"}
    changed = {SweepConfig.of_train[name]: value for name, value in point.items() if name in SweepConfig.of_train}
    return Member(described(point), described(but_seed), sweep.sae_at(point, sae), train.model_copy(update=changed))


def state_bytes(sae: SAEConfig, d_in: int, d_out: int) -> int:
    """About what the training of an SAE holds in memory between two steps."""
    return STATES * 4 * layout(sae, d_in, d_out).size


def packed(costs: Sequence[float], n_workers: int) -> list[list[int]]:
    """Indices of members by worker, so that the workers' sums of costs are about even; no worker is left without.

    The dearest first, each to the worker that has least to do: at most a third above the best there is.
    """
    packs: list[list[int]] = [[] for _ in range(min(n_workers, len(costs)))]
    loads = [0.0] * len(packs)
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        worker = loads.index(min(loads))
        packs[worker].append(index)
        loads[worker] += costs[index]
    return [sorted(pack) for pack in packs]


def require_memory(needed: Sequence[int], nodes: Sequence[int]) -> None:
    """Refuse workers whose SAEs together do not fit the machines.

    Args:
        needed: bytes, by worker.
        nodes: bytes of memory, by machine; none where they are not known, and nothing is refused.

    Raises:
        InputError: all of them need more than all machines have, or one more than the largest has.
    """
    if not nodes:
        return
    pairs = [("together", sum(needed), sum(nodes)), ("on one worker", max(needed, default=0), max(nodes))]
    for how, wanted, there in pairs:
        if wanted > there:
            raise InputError(
                f"The SAEs of the sweep need {wanted / 2**30:.3g} GiB {how} (weights, gradients and Adam's moments), but "
                f"{'the machines have' if how == 'together' else 'no machine has more than'} {there / 2**30:.3g} GiB. "
                "Shorten its lists, or lower sweep.d_sae."
            )
