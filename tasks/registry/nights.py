"""What a registry keeps of its nights: that one began, from which champion, and what came of it.

Two lists with the same numbers. A night that was killed is found by what it was to do, and goes on with the champion that it
began with, whoever is champion by then: else its training would begin from another SAE than before the kill.
"""

from pydantic import Field

from tasks.registry.numbered_log import NumberedLog
from tasks.registry.records import Signed
from tasks.registry.registry import Registry


class NightBegun(Signed):
    """A night that is to retrain."""

    work: str
    """Hash of all that decides the SAE but for the champion: settings, model and text."""
    champion: int | None = None
    """The version that was champion as it began; None: there was none."""
    champion_move: int = 0
    """The number of the move that had made it champion."""


class NightDone(Signed):
    """What came of a night; URIs are relative to the storage's root."""

    version: int = Field(ge=1)
    """Of tonight's SAE."""
    champion: int | None = None
    """That it was held against."""
    activations: str
    tokens: int
    """Harvested rows in all."""
    new_tokens: int
    """Of them, those that no night before had."""
    seconds: float
    metrics: dict[str, float] = Field(default_factory=dict)
    """Of tonight's SAE on held-out rows: fvu, l0, dead_fraction, ce_recovered as far as measured."""
    champion_fvu: float | None = None
    """Of the champion on the rows that both were measured on."""
    champion_fvu_before: float | None = None
    """Of the champion on the rows of the night that made it."""
    challenger_fvu: float | None = None
    """Of tonight's SAE on the same rows."""
    verdict: str | None = None
    reason: str = ""
    failed_gates: tuple[str, ...] = ()
    ledger: str | None = None
    """URI of the gates' ledger."""
    matched: str | None = None
    """URI of the match with the champion."""
    shares: dict[str, float] = Field(default_factory=dict)
    """Of latents by class: same, drifted, split, died, merged, born."""
    corpus_drift: float | None = None
    """How far the mean activation has moved since the champion's rows, in standard deviations of a row."""
    rate_drift: float | None = None
    """By what factor the rates of latents that go on have changed, the median."""
    promoted: bool = False
    removed_bytes: int = 0
    retention_error: str = ""
    """Why nothing could be removed."""
    frozen: str | None = None
    """URI of the rows that both were measured on, where they are not the night's own."""
    stored_bytes: int | None = None
    full_in_nights: float | None = None
    scores: str
    report: str


class Nights:
    """The nights of a registry."""

    def __init__(self, registry: Registry) -> None:
        """Of this registry, which need not have had one."""
        self.begun: NumberedLog[NightBegun] = NumberedLog(NightBegun, registry.store, "nights/begun")
        self.done: NumberedLog[NightDone] = NumberedLog(NightDone, registry.store, "nights/done")

    def begin(self, work: str, champion: tuple[int, int] | None, signed: Signed) -> tuple[int, NightBegun]:
        """The number of the night that does this work, and how it began.

        It is tonight, unless the last night was to do the same, or one before it did: settings may go back and forth.

        Args:
            work: what decides the SAE.
            champion: its version, and the number of the move that made it champion; None: there is none.
            signed: who begins, and when.

        Raises:
            ArtifactError: a record is damaged.
        """
        while True:
            there = list(self.begun.all())
            last, done = max((number for number, _ in there), default=0), set(self.done.numbers())
            for number, found in reversed(there):
                if found.work == work and (number == last or number in done):
                    return number, found
            version, move = champion or (None, 0)
            made = NightBegun(work=work, champion=version, champion_move=move, by=signed.by, when=signed.when)
            if self.begun.append(last + 1, made):
                return last + 1, made

    def of_version(self, version: int) -> NightDone | None:
        """The night that made a version; None where a night made none such.

        Raises:
            ArtifactError: a record is damaged.
        """
        return next((done for _, done in self.done.all() if done.version == version), None)

    def finish(self, number: int, done: NightDone) -> NightDone:
        """What came of a night; what is recorded already stays.

        Raises:
            ArtifactError: the record is damaged.
        """
        self.done.append(number, done)
        return self.done.at(number)
