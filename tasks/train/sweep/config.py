"""Which SAEs a sweep trains: lists of values, whose product it is."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from tasks.sae.config import SAEConfig
from tasks.settings import Seed, Settings

Count = Annotated[int, Field(ge=1, lt=2**31)]
MOST_SAES = 4096
"""Of one sweep; each takes memory beside the others."""


class SweepConfig(Settings):
    """Values to try, for `saemill sweep` alone; every combination becomes an SAE, all trained on the same batches."""

    of_sae: ClassVar[dict[str, str]] = {"archs": "arch", "d_sae": "d_sae", "k": "k", "l1_coefficient": "l1_coefficient"}
    """List by list, the setting of ``sae`` that its values are for."""
    of_train: ClassVar[dict[str, str]] = {"lr": "lr", "seeds": "init_seed"}
    """List by list, the setting of ``train`` that its values are for."""

    archs: tuple[str, ...] = ()
    """Architectures, as in sae.arch. Empty: sae.arch."""
    d_sae: tuple[Count, ...] = ()
    """Numbers of latents. Empty: sae.d_sae."""
    k: tuple[Count, ...] = ()
    """Latents per token. Empty: sae.k."""
    l1_coefficient: tuple[Annotated[float, Field(ge=0, le=1e30)], ...] = ()
    """Weights of the sparsity term. Empty: sae.l1_coefficient."""
    lr: tuple[Annotated[float, Field(gt=0, le=1e30)], ...] = ()
    """Peak learning rates. Empty: train.lr."""
    seeds: tuple[Seed, ...] = ()
    """Seeds of the initial weights; the order of the data stays that of train.seed. Empty: train.init_seed."""

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        for name, values in self.lists.items():
            if len({*values}) != len(values):
                raise ValueError(f"sweep.{name} is {list(values)} but must name each value once.")
        return self

    @property
    def lists(self) -> dict[str, tuple[Any, ...]]:
        """The lists that have values, by name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: values for name, values in found.items() if values}

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination, as a value of each list that has any; the last list runs fastest."""
        lists = self.lists
        if lists:
            yield from (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))

    def sae_at(self, point: dict[str, Any], sae: SAEConfig) -> SAEConfig:
        """``sae`` with the values of one combination.

        Raises:
            ValueError: they are impossible together; the message says which and what is allowed.
        """
        try:
            return replace(sae, **{self.of_sae[name]: value for name, value in point.items() if name in self.of_sae})
        except ValueError as error:
            raise ValueError(f"sweep, at {described(point)}: {error}") from None

    def check(self, sae: SAEConfig) -> None:
        """Refuse a sweep with too many combinations, or with one that is no SAE.

        Raises:
            ValueError: telling how many there are, or naming the first of them that is wrong.
        """
        sizes = {f"sweep.{name}": len(values) for name, values in self.lists.items()}
        if prod(sizes.values()) > MOST_SAES:
            factors = " x ".join(f"{size:,} ({name})" for name, size in sizes.items())
            raise ValueError(
                f"The sweep has {prod(sizes.values()):,} SAEs, {factors}, but at most {MOST_SAES:,} can be trained at once. "
                "Shorten its lists."
            )
        for point in self.points():
            self.sae_at(point, sae)


def described(point: dict[str, Any]) -> str:
    """A combination in words, such as 'topk, d_sae 1152, k 16, seed 0'."""
    words = {"archs": "{}", "seeds": "seed {}", "lr": "lr {:g}", "l1_coefficient": "l1_coefficient {:g}"}
    return ", ".join(words.get(name, name + " {}").format(value) for name, value in point.items())
