"""A night on its way: what it began with, and where its results lie."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.addresses import Addresses
from flows.config import PipelineConfig
from flows.pipeline import Result
from tasks.registry.nights import NightBegun, NightDone, Nights
from tasks.registry.registry import Registry
from tasks.storage.artifacts import resolve

if TYPE_CHECKING:
    from flows.gating import Gated
    from flows.retention import Swept


@dataclass(frozen=True, slots=True)
class Tonight:
    """What the steps after the training are given."""

    config: PipelineConfig
    """With the champion's SAE as what training began from, where that was asked for and there is one."""
    at: Addresses
    registry: Registry
    number: int
    """Of the night."""
    begun: NightBegun
    version: int
    """Of tonight's SAE."""

    @property
    def champion(self) -> int | None:
        """The version that tonight's is held against; None where there is none, or it is that version already."""
        return None if self.begun.champion == self.version else self.begun.champion

    @property
    def champions_night(self) -> NightDone | None:
        """The night that made the champion."""
        return None if self.champion is None else Nights(self.registry).of_version(self.champion)

    def sae_of(self, version: int) -> str:
        """URI of the SAE of a version."""
        return self.registry.uri_of(self.registry.version(version))

    def uri(self, kept: str) -> str:
        """What a record has, as a URI."""
        return resolve(kept, self.registry.root)

    def below(self, uri: str) -> str:
        """A URI as records have it: from the storage's root, which can be moved."""
        return uri.removeprefix(f"{self.registry.root}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the steps have come to."""

    gated: "Gated | None"
    """None where there was no champion."""
    matched: dict[str, Any] | None
    """As ``saemill match --json`` prints it; None where there was no champion."""
    report: str
    promoted: bool
    swept: "Swept | str"
    """Or why nothing could be removed."""
    seconds: float

    @property
    def match_uri(self) -> str | None:
        """The directory of the match."""
        return None if self.matched is None else self.matched["table"].rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Night:
    """What came of a night."""

    registry: Registry
    done: NightDone
    result: Result
    is_new: bool
    """False where nothing was new, so that nothing was done."""

    @property
    def history(self) -> str:
        """URI of the page of all nights."""
        return f"{self.registry.root}/reports/{self.registry.name}-nights"
