"""What a stage is: one frozen object that knows what it would make, whether it could, and how to make it.

A stage holds its own settings and the URIs of what it reads. ``flows`` chooses the stages of a run, gives each the URIs of
those before it, and asks all of them the same questions in turn.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from typing_extensions import override

from tasks.progress import Listener
from tasks.storage.artifacts import address, read_manifest
from tasks.storage.objects import open_store

Widths = Mapping[str, int]
"""Features of each hook whose activations are there, or are about to be."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a result holds; the hash of it is in the result's address."""

    settings: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    """Addresses of what is read, of which the hashes count, or other identities."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How much of an unfinished result is there."""

    done: int | None = None
    """None: that cannot be counted."""
    total: int | None = None
    unit: str | None = None
    """What ``done`` and ``total`` count."""


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One arrow of the pipeline; a subclass says what is the same for all of its kind in its class statement."""

    name: ClassVar[str]
    """As commands and logs call it."""
    result: ClassVar[str]
    """As its result is called where results are listed."""
    folder: ClassVar[str]
    """The folder below the root that holds results of this kind."""
    version: ClassVar[int]
    """Raised when the code comes to give another result for the same settings."""
    is_long: ClassVar[bool]
    """Whether it may take days, not hours."""
    reads: ClassVar[tuple[str, ...]]
    """Fields that hold the URIs of other stages' results, and are called like them."""

    @override
    def __init_subclass__(
        cls, *, name: str, result: str, folder: str, version: int, is_long: bool = False, reads: tuple[str, ...] = ()
    ) -> None:
        super().__init_subclass__()
        cls.name, cls.result, cls.folder, cls.version = name, result, folder, version
        cls.is_long, cls.reads = is_long, reads

    @abstractmethod
    def recipe(self) -> Recipe:
        """What decides the result.

        Raises:
            InputError: something that it is made of is not there.
        """

    @abstractmethod
    def run(self, out: str, listener: Listener) -> None:
        """Write the result to ``out``, its manifest last; nothing happens where it is finished."""

    def reading(self, results: Mapping[str, str | None]) -> Self:
        """The same stage, which reads those of ``results`` that it has fields for."""
        return replace(self, **{name: results[name] for name in self.reads if results.get(name) is not None})

    def places(self, root: str, name: str) -> dict[str, str]:
        """The URI of the result of a run of this name, by what the result is called.

        Raises:
            InputError: as ``recipe``.
        """
        recipe = self.recipe()
        settings = {"version": self.version, **recipe.settings}
        return {self.result: address(root, self.folder, name, settings, recipe.inputs)}

    def check(self) -> None:  # noqa: B027  # most stages need nothing of the machine
        """Refuse settings that this machine cannot serve; looks at nothing that the stage reads or writes.

        Raises:
            InputError: the machine has too little of something, or lacks a package.
        """

    def check_inputs(self, out: str, widths: Widths) -> Widths:
        """Refuse what the stage would read, and settings that do not fit it, before anything is written.

        Args:
            out: where the result will lie. What a finished result has proved is not looked at again.
            widths: what the stages before have found of the activations.

        Returns:
            ``widths`` with what this stage has found of them.

        Raises:
            InputError: something is not there, or does not fit.
        """
        return widths

    def progress(self, out: str) -> StageProgress | None:
        """How much of an unfinished result is there; None where there is nothing yet."""
        return StageProgress() if next(open_store(out).list(), None) is not None else None

    def finished(self, out: str) -> bool:
        """Whether the result is there, whole."""
        return read_manifest(out) is not None
